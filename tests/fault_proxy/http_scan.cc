#include "tests/fault_proxy/http_scan.h"

#include <strings.h>

#include <algorithm>
#include <charconv>

namespace fault_proxy {

namespace {

constexpr std::size_t kHeadBytesMax = 64 * 1024;

// Both requests and responses begin with a capital letter; a TLS record does not.
bool may_begin_http(char c) {
  return c >= 'A' && c <= 'Z';
}

// The value of a header, without spaces around it; nothing when it is absent.
std::string_view header(std::string_view head, std::string_view name) {
  std::size_t at = head.find("\r\n");
  while (at != std::string_view::npos && at + 2 < head.size()) {
    const std::size_t begin = at + 2;
    at = head.find("\r\n", begin);
    const std::string_view line = head.substr(begin, at - begin);
    if (line.size() <= name.size() || line[name.size()] != ':') continue;
    if (strncasecmp(line.data(), name.data(), name.size()) != 0) continue;
    std::string_view value = line.substr(name.size() + 1);
    value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
    return value;
  }
  return {};
}

}  // namespace

std::string_view method_of(std::string_view head) {
  return head.substr(0, head.find(' '));
}

int status_of(std::string_view head) {
  const std::size_t space = head.find(' ');
  int status = 0;
  if (space != std::string_view::npos && head.size() >= space + 4) {
    std::from_chars(head.data() + space + 1, head.data() + space + 4, status);
  }
  return status;
}

void HttpScan::restart() {
  if (state_ == State::opaque) return;
  state_ = State::head;
  head_.clear();
  head_done_ = false;
}

void HttpScan::read_length() {
  body_bytes_ = 0;
  const int status = head_.starts_with("HTTP/") ? status_of(head_) : 0;
  const std::string_view length = header(head_, "content-length");
  if (!length.empty()) {
    std::from_chars(length.data(), length.data() + length.size(), body_bytes_);
  } else if (status != 0 && status != 204 && status != 304) {
    state_ = State::endless;  // chunked, or until the connection closes
    return;
  }
  left_ = body_bytes_;
  state_ = State::body;
}

HttpScan::Step HttpScan::feed(std::string_view bytes) {
  if (state_ == State::opaque || state_ == State::endless) return {bytes.size(), Event::none};
  if (state_ == State::body && left_ == 0) restart();
  if (state_ == State::body) {
    const std::size_t count = std::min<std::uint64_t>(bytes.size(), left_);
    left_ -= count;
    if (left_ != 0) return {count, Event::none};
    restart();
    return {count, Event::end};
  }
  if (bytes.empty()) return {};
  if (head_done_) {
    head_.clear();
    head_done_ = false;
  }
  if (head_.empty() && !may_begin_http(bytes.front())) {
    state_ = State::opaque;
    return {bytes.size(), Event::none};
  }
  const std::size_t before = head_.size();
  head_.append(bytes);
  const std::size_t end = head_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
  if (end == std::string::npos) {
    if (head_.size() > kHeadBytesMax) state_ = State::opaque;
    return {bytes.size(), Event::none};
  }
  head_.resize(end + 4);
  head_done_ = true;
  read_length();
  return {head_.size() - before, Event::head};
}

}  // namespace fault_proxy
