#include "s3/s3_store.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "s3/client.h"

namespace zerofs::s3 {

namespace {

constexpr u64 kKeysPerPage = 1000;
constexpr std::size_t kRemoveAtOnceMax = 1000;

std::unexpected<Error> unexpected_status(const Response& response) {
  return fail(Code::invalid, "S3: an answer that this request cannot have", response.status);
}

std::unexpected<Error> not_found(const Response& response) {
  return fail(Code::not_found, "S3: no such object", response.status);
}

}  // namespace

struct S3Store::Impl {
  Impl(Config config, Place place, Runtime runtime, Mailbox& mailbox)
      : client(std::move(config), std::move(place), runtime, mailbox) {}

  std::string key(std::string_view name) {
    const std::string& prefix = client.shared().config.prefix;
    return prefix.empty() ? std::string(name) : fmt::format("{}/{}", prefix, name);
  }
  Request get(std::string_view name, store::Class klass) {
    return {.operation = Operation::get, .klass = klass, .method = Method::get, .key = key(name)};
  }
  Request multipart(Method method, std::string_view name, store::Class klass) {
    return {.operation = Operation::multipart, .klass = klass, .method = method, .key = key(name)};
  }

  Client client;
};

S3Store::S3Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
S3Store::~S3Store() = default;

Result<std::unique_ptr<S3Store>> S3Store::start(Config config, Runtime runtime, Mailbox& mailbox) {
  static std::once_flag once;
  std::call_once(once, [] { INVARIANT(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK); });
  if (!config.ca_file.empty() && access(config.ca_file.c_str(), R_OK) != 0) {
    return invalid("S3: the file of certificate authorities cannot be read", errno);
  }
  TRY(Place place, place_of(config, config.region));
  auto impl = std::make_unique<Impl>(std::move(config), std::move(place), runtime, mailbox);
  return std::unique_ptr<S3Store>(new S3Store(std::move(impl)));
}

Task<> S3Store::read(std::string name, u64 offset, MutableBytes out, store::Class klass) {
  if (out.empty()) {
    const u64 bytes = co_await size(std::move(name), klass);
    if (bytes < offset) co_return corrupt("S3: the object is shorter than expected", bytes);
    co_return {};
  }
  Request request = impl_->get(name, klass);
  request.range = Range{.first = offset, .last = offset + out.size() - 1};
  request.into = out;
  const Response response = co_await impl_->client.perform(request);
  if (response.status == 404 || response.status == 410) co_return not_found(response);
  const u64 total = response.content_range ? response.content_range->total : 0;
  if (response.status == 416) {
    co_return corrupt("S3: the object is shorter than expected", total);
  }
  if (!response.ok()) co_return unexpected_status(response);
  if (request.filled + response.received != out.size()) {
    co_return corrupt("S3: the object is shorter than expected", total);
  }
  co_return {};
}

Task<store::Tail> S3Store::read_suffix(std::string name, u64 bytes_max, store::Class klass) {
  store::Tail tail;
  if (bytes_max == 0) {
    tail.object_bytes = co_await size(std::move(name), klass);
    co_return tail;
  }
  Request request = impl_->get(name, klass);
  request.suffix = bytes_max;
  Response response = co_await impl_->client.perform(request);
  if (response.status == 404 || response.status == 410) co_return not_found(response);
  if (response.status == 416) {  // an empty object has no last byte
    tail.object_bytes = response.content_range ? response.content_range->total
                                               : co_await size(std::move(name), klass);
    if (tail.object_bytes != 0) co_return unexpected_status(response);
    co_return tail;
  }
  if (response.status != 200 && response.status != 206) co_return unexpected_status(response);
  if (!response.content_range) co_return unexpected_status(response);
  const ContentRange range = *response.content_range;
  tail.object_bytes = range.total;
  if (response.whole()) {
    tail.bytes = std::move(response.body);
    co_return tail;
  }
  // Interrupted: the rest is an ordinary range.
  tail.bytes = Buffer(range.last - range.first + 1);
  if (response.received > tail.bytes.size()) co_return unexpected_status(response);
  std::memcpy(tail.bytes.data(), response.body.data(), response.received);
  Request rest = impl_->get(name, klass);
  rest.range = Range{.first = range.first, .last = range.last};
  rest.into = tail.bytes;
  rest.filled = response.received;
  rest.if_match = response.etag.starts_with("W/") ? "" : response.etag;
  if (impl_->client.shared().unquoted_etags) std::erase(rest.if_match, '"');
  ++impl_->client.shared().stats.resumes;
  if (rest.filled == tail.bytes.size()) co_return tail;
  const Response ended = co_await impl_->client.perform(rest);
  if (ended.status == 404 || ended.status == 410) co_return not_found(ended);
  if (!ended.ok()) co_return unexpected_status(ended);
  if (rest.filled + ended.received != tail.bytes.size()) {
    co_return corrupt("S3: the object is shorter than expected", range.total);
  }
  co_return tail;
}

Task<> S3Store::create(std::string name, Bytes body, store::Class klass) {
  Request request{.operation = Operation::put,
                  .klass = klass,
                  .method = Method::put,
                  .key = impl_->key(name),
                  .headers = {{"if-none-match", "*"}},
                  .body = body};
  const Response response = co_await impl_->client.perform(request);
  if (response.status == 412) {
    co_return fail(Code::precondition, "S3: the name exists", response.status);
  }
  if (!response.ok()) co_return unexpected_status(response);
  co_return {};
}

Task<> S3Store::remove(std::string name) {
  Request request{.operation = Operation::remove,
                  .klass = store::Class::bulk,
                  .method = Method::remove,
                  .key = impl_->key(name)};
  const Response response = co_await impl_->client.perform(request);
  if (!response.ok() && response.status != 404) co_return unexpected_status(response);
  co_return {};
}

Task<std::vector<std::string>> S3Store::list(std::string prefix, std::string after, u32 count_max) {
  std::vector<std::string> names;
  const std::string base = impl_->key("");
  std::string continuation;
  while (names.size() < count_max) {
    Request request{
        .operation = Operation::list, .klass = store::Class::foreground, .method = Method::get};
    const u64 keys = std::min(kKeysPerPage, u64{count_max} - names.size());
    request.query = {{"list-type", "2"},
                     {"encoding-type", "url"},
                     {"prefix", base + prefix},
                     {"max-keys", fmt::format("{}", keys)}};
    if (!continuation.empty()) {
      request.query.push_back({"continuation-token", continuation});
    } else if (!after.empty()) {
      request.query.push_back({"start-after", base + after});
    }
    const Response response = co_await impl_->client.perform(request);
    if (!response.ok()) co_return unexpected_status(response);
    const ListPage page = co_await parse_list(response.body);
    for (const std::string& key : page.keys) {
      if (!key.starts_with(base)) co_return corrupt("S3: a listing has a name from elsewhere");
      std::string name = key.substr(base.size());
      if (!names.empty() && name <= names.back()) {
        co_return invalid("S3: this server's listings are not in order, which ZeroFS relies on");
      }
      names.push_back(std::move(name));
    }
    continuation = page.continuation;
    if (continuation.empty()) break;
  }
  if (names.size() > count_max) names.resize(count_max);
  co_return names;
}

Task<> S3Store::remove_many(std::vector<std::string> names) {
  INVARIANT(names.size() <= kRemoveAtOnceMax);
  if (names.empty()) co_return {};
  std::vector<std::string> keys;
  for (const std::string& name : names) keys.push_back(impl_->key(name));
  const std::string body = delete_request(keys);
  Request request{.operation = Operation::remove_many,
                  .klass = store::Class::bulk,
                  .method = Method::post,
                  .query = {{"delete", ""}},
                  .headers = {{"content-md5", md5_base64(bytes_of(body))}},
                  .body = bytes_of(body)};
  const Response response = co_await impl_->client.perform(request);
  if (!response.ok()) co_return unexpected_status(response);
  const std::vector<DeleteFailure> failures = co_await parse_delete_result(response.body);
  for (const DeleteFailure& failure : failures) {
    if (failure.code == "NoSuchKey") continue;
    if (failure.code == "AccessDenied") co_return fail(Code::denied, "S3: access denied");
    co_return fail(Code::retry, "S3: some objects were not removed", failures.size());
  }
  co_return {};
}

Task<u64> S3Store::size(std::string name, store::Class klass) {
  Request request{.operation = Operation::head,
                  .klass = klass,
                  .method = Method::head,
                  .key = impl_->key(name)};
  const Response response = co_await impl_->client.perform(request);
  if (response.status == 404 || response.status == 410) co_return not_found(response);
  if (!response.ok() || !response.content_length) co_return unexpected_status(response);
  co_return *response.content_length;
}

Task<std::string> S3Store::begin_upload(std::string name, store::Class klass) {
  Request request = impl_->multipart(Method::post, name, klass);
  request.query = {{"uploads", ""}};
  const Response response = co_await impl_->client.perform(request);
  if (!response.ok()) co_return unexpected_status(response);
  co_return parse_upload_id(response.body);
}

Task<S3Store::Part> S3Store::upload_part(std::string name, std::string upload, u32 number,
                                         Bytes body, store::Class klass) {
  Request request = impl_->multipart(Method::put, name, klass);
  request.query = {{"partNumber", fmt::format("{}", number)}, {"uploadId", upload}};
  request.body = body;
  const Response response = co_await impl_->client.perform(request);
  if (response.status == 404) co_return not_found(response);
  if (!response.ok()) co_return unexpected_status(response);
  co_return Part{.number = number, .etag = response.etag};
}

Task<> S3Store::complete_upload(std::string name, std::string upload, std::vector<Part> parts,
                                store::Class klass) {
  std::vector<UploadedPart> uploaded;
  for (const Part& part : parts) uploaded.push_back({part.number, part.etag});
  const std::string body = complete_request(uploaded);
  Request request = impl_->multipart(Method::post, name, klass);
  request.query = {{"uploadId", upload}};
  request.body = bytes_of(body);
  const Response response = co_await impl_->client.perform(request);
  // A 404 after a lost reply means that it is complete already, or that nobody knows: look.
  if (response.status == 404) co_return not_found(response);
  if (!response.ok()) co_return unexpected_status(response);
  // The server sends 200 first and learns of its troubles later.
  if (parse_error(response.body)) {
    co_return fail(Code::retry, "S3: the upload was not completed", response.status);
  }
  co_return {};
}

Task<> S3Store::abort_upload(std::string name, std::string upload) {
  Request request = impl_->multipart(Method::remove, name, store::Class::bulk);
  request.query = {{"uploadId", upload}};
  const Response response = co_await impl_->client.perform(request);
  if (!response.ok() && response.status != 404) co_return unexpected_status(response);
  co_return {};
}

namespace {

bool is_write(Operation operation) {
  return operation == Operation::put || operation == Operation::list ||
         operation == Operation::multipart;
}
bool is_read(Operation operation) {
  return operation == Operation::get || operation == Operation::head;
}

double cost(const Counters& counters, const Prices& prices) {
  u64 writes = 0;
  u64 reads = 0;
  for (u32 o = 0; o < kOperations; ++o) {
    const Operation operation = static_cast<Operation>(o);
    for (u32 c = 0; c < kClasses; ++c) {
      // Refused conditional requests are billed, the server's own failures are not.
      for (const Answer answer : {Answer::ok, Answer::redirect, Answer::precondition,
                                  Answer::refused, Answer::abandoned}) {
        const u64 requests =
            counters.cell(operation, static_cast<store::Class>(c), answer).requests;
        if (is_write(operation)) writes += requests;
        if (is_read(operation)) reads += requests;
      }
    }
  }
  double dollars = static_cast<double>(writes) / 1000 * prices.per_1000_writes +
                   static_cast<double>(reads) / 1000 * prices.per_1000_reads;
  for (u32 c = 0; c < kClasses; ++c) {
    dollars += static_cast<double>(counters.sent_bytes[c]) / 1e9 * prices.per_gb_sent;
    dollars += static_cast<double>(counters.received_bytes[c]) / 1e9 * prices.per_gb_received;
  }
  return dollars;
}

}  // namespace

Counters S3Store::counters() const {
  Shared& shared = impl_->client.shared();
  Counters out;
  shared.stats.fill(out);
  const Instant now = now_monotonic();
  for (u32 c = 0; c < kClasses; ++c) out.caps[c] = shared.cap(static_cast<store::Class>(c), now);
  out.dollars = cost(out, shared.config.prices);
  return out;
}

State S3Store::state() const {
  return impl_->client.shared().health.state(now_monotonic());
}

}  // namespace zerofs::s3
