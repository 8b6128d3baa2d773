#include "s3/transfer.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <charconv>

namespace zerofs::s3 {

namespace {

// Below this libcurl sends header and body in one system call, if the body is given as form fields.
constexpr u64 kInOneSendBytes = 64 * kKiB;
constexpr long kReceiveBufferBytes = 256 * 1024;
constexpr long kSendBufferBytes = 256 * 1024;
constexpr u64 kErrorBodyBytesMax = 64 * kKiB;
// A server stores large bodies before it answers.
constexpr u64 kStoringBytesPerSecond = 4 * kMiB;
// Slower than this for the whole of a transfer is as bad as stalled.
constexpr Duration kTransferMin = 30s;
constexpr u64 kTransferBytesPerSecond = 128 * kKiB;

template <class Value>
void set(CURL* easy, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  INVARIANT(code == CURLE_OK);
}

bool same_letters(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b,
                            [](char x, char y) { return std::tolower(x) == std::tolower(y); });
}

}  // namespace

Transfer::Transfer(Shared& shared) : shared_(shared), easy_(curl_easy_init()) {
  INVARIANT(easy_ != nullptr);
  set_constant_options();
}

Transfer::~Transfer() {
  curl_easy_cleanup(easy_);
  curl_slist_free_all(headers_);
}

Transfer& Transfer::of(CURL* easy) {
  char* self = nullptr;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &self);
  return *reinterpret_cast<Transfer*>(self);
}

void Transfer::set_constant_options() {
  const Config& config = shared_.config;
  const auto ms = [](Duration d) {
    return static_cast<long>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count());
  };
  set(easy_, CURLOPT_PRIVATE, this);
  set(easy_, CURLOPT_ERRORBUFFER, error_);
  set(easy_, CURLOPT_NOSIGNAL, 1L);
  set(easy_, CURLOPT_NOPROGRESS, 1L);
  set(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy_, CURLOPT_PATH_AS_IS, 1L);
  set(easy_, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(easy_, CURLOPT_CONNECTTIMEOUT_MS, ms(config.deadlines.connect));
  // A server's end of an idle connection races with our next request: do not reuse an old one.
  set(easy_, CURLOPT_MAXAGE_CONN, std::max(1L, ms(config.deadlines.idle) / 1000));
  set(easy_, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
  set(easy_, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
  set(easy_, CURLOPT_UPLOAD_BUFFERSIZE, kSendBufferBytes);
  if (!config.ca_file.empty()) set(easy_, CURLOPT_CAINFO, config.ca_file.c_str());
  set(easy_, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  set(easy_, CURLOPT_HEADERDATA, this);
  set(easy_, CURLOPT_WRITEFUNCTION, &Transfer::on_write);
  set(easy_, CURLOPT_WRITEDATA, this);
  set(easy_, CURLOPT_READFUNCTION, &Transfer::on_read);
  set(easy_, CURLOPT_READDATA, this);
  set(easy_, CURLOPT_SEEKFUNCTION, &Transfer::on_seek);
  set(easy_, CURLOPT_SEEKDATA, this);
  set(easy_, CURLOPT_PREREQFUNCTION, &Transfer::on_connected);
  set(easy_, CURLOPT_PREREQDATA, this);
}

void Transfer::begin(Flight& flight, Signer& signer, Instant now) {
  const Request& request = flight.exchange.request;
  flight_ = &flight;
  response_ = Response();
  error_[0] = 0;
  started_ = progress_ = now;
  first_byte_after_.reset();
  body_sent_ = skip_ = 0;
  unsent_bytes_ = 0;
  connected_ = headers_done_ = false;
  const u64 bytes = request.body.size() + request.into.size() + request.suffix;
  end_of_all_ = now + kTransferMin + std::chrono::seconds(bytes / kTransferBytesPerSecond);

  const std::shared_ptr<const Place> place = shared_.place();
  std::string url = place->base.text() + place->path + escape(request.key, Slash::keep);
  const std::string query = canonical_query(request.query);
  if (!query.empty()) url += "?" + query;
  set(easy_, CURLOPT_URL, url.c_str());
  set_method(request);
  set_headers(request, *place, signer);
}

void Transfer::set_method(const Request& request) {
  // Each of these options overrides a part of what the ones before it said about the method.
  streams_body_ = request.body.size() >= kInOneSendBytes;
  set(easy_, CURLOPT_POSTFIELDS, static_cast<const char*>(nullptr));
  set(easy_, CURLOPT_HTTPGET, 1L);
  set(easy_, CURLOPT_CUSTOMREQUEST, static_cast<const char*>(nullptr));
  // A server may send a body after a HEAD that it refuses; the connection is lost then.
  set(easy_, CURLOPT_FORBID_REUSE, request.method == Method::head ? 1L : 0L);
  switch (request.method) {
    case Method::get: return;
    case Method::head: set(easy_, CURLOPT_NOBODY, 1L); return;
    case Method::remove: set(easy_, CURLOPT_CUSTOMREQUEST, "DELETE"); return;
    case Method::put:
    case Method::post: break;
  }
  if (streams_body_) {
    set(easy_, CURLOPT_UPLOAD, 1L);
    set(easy_, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  } else {
    const char* body = request.body.empty() ? "" : text_of(request.body).data();
    set(easy_, CURLOPT_POSTFIELDS, body);
    set(easy_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
  }
  set(easy_, CURLOPT_CUSTOMREQUEST, request.method == Method::put ? "PUT" : "POST");
}

void Transfer::add_header(std::string_view name, std::string_view value) {
  const std::string line = fmt::format("{}: {}", name, value);
  curl_slist* longer = curl_slist_append(headers_, line.c_str());
  INVARIANT(longer != nullptr);
  headers_ = longer;
}

std::string Transfer::range_header(const Request& request) const {
  if (request.range) {
    return fmt::format("bytes={}-{}", request.range->first + request.filled, request.range->last);
  }
  return request.suffix == 0 ? std::string() : fmt::format("bytes=-{}", request.suffix);
}

std::vector<Header> Transfer::headers_to_sign(const Request& request, const Place& place,
                                              const std::string& payload_hash, WallTime now) const {
  std::vector<Header> headers = request.headers;
  headers.push_back({"host", place.base.authority()});
  headers.push_back({"x-amz-content-sha256", payload_hash});
  headers.push_back({"x-amz-date", amz_date(now)});
  std::string range = range_header(request);
  if (!range.empty()) headers.push_back({"range", std::move(range)});
  if (!request.if_match.empty()) headers.push_back({"if-match", request.if_match});
  return headers;
}

void Transfer::set_headers(const Request& request, const Place& place, Signer& signer) {
  const SigningKeys keys = shared_.keys();
  INVARIANT(keys.credentials != nullptr);
  const Credentials& credentials = *keys.credentials;
  response_.credentials_generation = keys.generation;
  response_.region_used = place.region;

  const Payload payload = shared_.config.payload;
  const bool hash_body =
      payload == Payload::signed_ || (payload == Payload::automatic && !place.base.tls);
  std::string payload_hash(kUnsignedPayload);
  if (hash_body) {
    payload_hash = hex(request.body_hash ? *request.body_hash : sha256(request.body));
  }
  const WallTime now = now_wall() + std::chrono::seconds(shared_.clock_skew_s);
  std::vector<Header> headers = headers_to_sign(request, place, payload_hash, now);
  if (!credentials.session_token.empty()) {
    headers.push_back({"x-amz-security-token", credentials.session_token.value});
  }

  curl_slist_free_all(headers_);
  headers_ = nullptr;
  if (!credentials.anonymous) {
    const std::string query = canonical_query(request.query);
    const std::string path = place.path + escape(request.key, Slash::keep);
    const ToSign to_sign{
        .method = verb(request.method), .path = path, .query = query, .payload_hash = payload_hash};
    add_header("Authorization",
               signer.authorization(to_sign, headers, credentials, place.region, now));
  }
  for (const Header& header : headers) add_header(header.name, header.value);
  add_header("User-Agent", "zerofs");
  if (request.method == Method::put || request.method == Method::post) {
    add_header("Content-Type", "application/octet-stream");
    add_header("Expect", "");  // no header at all, and no waiting for "100 Continue"
  }
  set(easy_, CURLOPT_HTTPHEADER, headers_);
}

int Transfer::on_connected(void* self, char*, char*, int, int) {
  Transfer& transfer = *static_cast<Transfer*>(self);
  const Instant now = now_monotonic();
  if (transfer.connected_) {
    // libcurl sends it once more by itself: the reused connection was dead.
    const Request& request = transfer.flight_->exchange.request;
    transfer.shared_.stats.note(request.operation, request.klass, Answer::none,
                                now - transfer.started_);
  }
  transfer.connected_ = true;
  transfer.progress_ = now;
  return CURL_PREREQFUNC_OK;
}

std::size_t Transfer::on_read(char* out, std::size_t size, std::size_t count, void* self) {
  Transfer& transfer = *static_cast<Transfer*>(self);
  const Bytes rest = transfer.flight_->exchange.request.body.subspan(transfer.body_sent_);
  const std::size_t bytes = std::min(rest.size(), size * count);
  if (bytes != 0) std::memcpy(out, rest.data(), bytes);
  transfer.body_sent_ += bytes;
  transfer.progress_ = now_monotonic();
  return bytes;
}

int Transfer::on_seek(void* self, curl_off_t offset, int origin) {
  Transfer& transfer = *static_cast<Transfer*>(self);
  const u64 size = transfer.flight_->exchange.request.body.size();
  if (origin != SEEK_SET || offset < 0 || static_cast<u64>(offset) > size) {
    return CURL_SEEKFUNC_FAIL;
  }
  transfer.body_sent_ = static_cast<u64>(offset);
  return CURL_SEEKFUNC_OK;
}

std::size_t Transfer::on_header(char* data, std::size_t size, std::size_t count, void* self) {
  Transfer& transfer = *static_cast<Transfer*>(self);
  const Instant now = now_monotonic();
  transfer.progress_ = now;
  if (!transfer.first_byte_after_) transfer.first_byte_after_ = now - transfer.started_;
  std::string_view line(data, size * count);
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  if (!line.empty()) {
    if (!transfer.headers_done_) transfer.header_line(line);  // else trailers
  } else if (transfer.response_.status >= 200 && !transfer.headers_done_) {
    transfer.headers_done_ = true;
    if (!transfer.headers_end()) return 0;
  }
  return size * count;
}

void Transfer::header_line(std::string_view line) {
  if (line.starts_with("HTTP/")) {
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    response_.status = static_cast<u32>(status);
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon == line.npos) return;
  const std::string_view name = line.substr(0, colon);
  std::string_view value = line.substr(colon + 1);
  while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
  while (value.ends_with(' ')) value.remove_suffix(1);

  const auto number = [value]() -> std::optional<u64> {
    u64 out = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    if (error != std::errc() || end != value.data() + value.size()) return std::nullopt;
    return out;
  };
  if (same_letters(name, "etag")) {
    response_.etag = value;
  } else if (same_letters(name, "content-length")) {
    response_.content_length = number();
  } else if (same_letters(name, "content-range")) {
    response_.content_range = parse_content_range(value);
  } else if (same_letters(name, "date")) {
    response_.date = parse_http_date(value);
  } else if (same_letters(name, "x-amz-bucket-region")) {
    response_.region = value;
  } else if (same_letters(name, "location")) {
    response_.location = value;
  } else if (same_letters(name, "x-amz-request-id")) {
    response_.request_id = value;
  } else if (same_letters(name, "retry-after")) {
    const std::optional<u64> seconds = number();
    if (seconds) response_.retry_after = std::chrono::seconds(std::min<u64>(*seconds, 60));
  }
}

// False ends the transfer.
bool Transfer::headers_end() {
  if (response_.status < 500 && flight_->owner == nullptr) flight_->owner = this;
  if (is_beaten()) return false;
  const Request& request = flight_->exchange.request;
  const bool partial = request.range || request.suffix != 0;
  if (!partial || response_.status >= 300) return true;

  if (response_.status == 206) {
    const std::optional<ContentRange>& got = response_.content_range;
    const bool as_asked =
        got && got->satisfied &&
        (request.range ? got->first == request.range->first + request.filled &&
                             got->last <= request.range->last
                       : got->last + 1 == got->total && got->last - got->first < request.suffix);
    if (!as_asked) {
      response_.failure = Failure::other;
      response_.failure_text = "S3: the server answered with another range than asked for";
      return false;
    }
  } else if (response_.content_length) {
    // The whole object, as RFC 9110 allows: skip to what was asked for.
    const u64 total = *response_.content_length;
    response_.content_range = ContentRange{.total = total};
    skip_ = request.range ? request.range->first + request.filled
                          : total - std::min(total, request.suffix);
  } else {
    response_.failure = Failure::other;
    response_.failure_text = "S3: the server ignored the range and gave no length";
    return false;
  }
  if (request.suffix != 0) {
    const u64 total = response_.content_range->total;
    response_.body.reserve(std::min(total, request.suffix));
  }
  return true;
}

std::size_t Transfer::on_write(char* data, std::size_t size, std::size_t count, void* self) {
  Transfer& transfer = *static_cast<Transfer*>(self);
  transfer.progress_ = now_monotonic();
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size * count);
  return transfer.take_body(bytes) ? bytes.size() : 0;
}

bool Transfer::take_body(Bytes bytes) {
  if (is_beaten()) return false;
  const Request& request = flight_->exchange.request;
  if (response_.status >= 300) {
    const u64 room = kErrorBodyBytesMax - std::min(kErrorBodyBytesMax, response_.body.size());
    response_.body.append(bytes.first(std::min(bytes.size(), room)));
    return true;
  }
  const u64 skipped = std::min<u64>(skip_, bytes.size());
  skip_ -= skipped;
  return take_object_bytes(bytes.subspan(skipped)) || request.method == Method::remove;
}

bool Transfer::take_object_bytes(Bytes bytes) {
  const Request& request = flight_->exchange.request;
  if (request.range) {
    const MutableBytes room = request.into.subspan(request.filled + response_.received);
    const u64 taken = std::min(room.size(), bytes.size());
    if (taken != 0) std::memcpy(room.data(), bytes.data(), taken);
    response_.received += taken;
    // More than that is what follows in an object that came whole; a 206 was checked.
    return true;
  }
  if (response_.body.size() + bytes.size() > std::max(request.body_max, request.suffix)) {
    response_.failure = Failure::too_long;
    return false;
  }
  response_.body.append(bytes);
  response_.received += bytes.size();
  return true;
}

void Transfer::end(CURLcode code) {
  long connects = 0;
  curl_easy_getinfo(easy_, CURLINFO_NUM_CONNECTS, &connects);
  shared_.stats.connections += static_cast<u64>(connects);
  if (!streams_body_ && connected_) body_sent_ = flight_->exchange.request.body.size();
  if (code == CURLE_OK || response_.failure != Failure::none) return;
  // These two say all with their status. Any other answer is one only when it came whole: what a 404
  // or 403 means stands in its body.
  if (headers_done_ && (response_.status == 412 || response_.status == 416)) return;
  response_.failure_text = curl_easy_strerror(code);
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT: response_.failure = Failure::connect; break;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: response_.failure = Failure::tls; break;
    case CURLE_PARTIAL_FILE: response_.failure = Failure::truncated; break;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING: response_.failure = Failure::reset; break;
    default: response_.failure = Failure::other; break;
  }
}

void Transfer::end(Failure failure) {
  end(CURLE_OK);
  response_.failure = failure;
  response_.failure_text = name_of(failure);
}

Response Transfer::take_response() {
  const u32 klass = static_cast<u32>(flight_->exchange.request.klass);
  shared_.stats.sent_bytes[klass] += body_sent_;
  shared_.stats.received_bytes[klass] += response_.received;
  flight_ = nullptr;
  return std::exchange(response_, Response());
}

Instant Transfer::deadline() const {
  const Deadlines& limits = shared_.config.deadlines;
  // libcurl itself keeps the time of connecting; this is for a resolver that never answers.
  if (!connected_) return started_ + 2 * limits.connect;
  const u64 body = flight_->exchange.request.body.size();
  Duration patience =
      limits.first_byte + std::chrono::milliseconds(body * 1000 / kStoringBytesPerSecond);
  if (has_status() || (streams_body_ && body_sent_ < body)) patience = limits.stall;
  return std::min(end_of_all_, progress_ + patience);
}

bool Transfer::is_late(Instant now) {
  if (now < deadline()) return false;
  if (now >= end_of_all_ || has_status()) return true;
  curl_socket_t socket = CURL_SOCKET_BAD;
  curl_easy_getinfo(easy_, CURLINFO_ACTIVESOCKET, &socket);
  int unsent = 0;
  if (socket == CURL_SOCKET_BAD || ioctl(socket, SIOCOUTQ, &unsent) != 0) return true;
  const i32 before = std::exchange(unsent_bytes_, unsent);
  if (unsent == 0 || unsent == before) return true;
  progress_ = now;
  return false;
}

Failure Transfer::lateness() const {
  if (!connected_) return Failure::connect;
  const bool sending = streams_body_ && body_sent_ < flight_->exchange.request.body.size();
  return has_status() || sending ? Failure::stall : Failure::first_byte;
}

}  // namespace zerofs::s3
