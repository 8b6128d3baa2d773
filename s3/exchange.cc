#include "s3/exchange.h"

#include <curl/curl.h>

#include <charconv>

namespace zerofs::s3 {

std::string_view verb(Method method) {
  switch (method) {
    case Method::get: return "GET";
    case Method::head: return "HEAD";
    case Method::put: return "PUT";
    case Method::post: return "POST";
    case Method::remove: return "DELETE";
  }
  return "GET";
}

const char* name_of(Failure failure) {
  switch (failure) {
    case Failure::none: return "answered";
    case Failure::connect: return "cannot connect";
    case Failure::first_byte: return "no answer in time";
    case Failure::stall: return "the transfer stalled";
    case Failure::reset: return "the connection broke";
    case Failure::truncated: return "the answer was cut short";
    case Failure::tls: return "the server's certificate is not trusted";
    case Failure::too_long: return "the answer is too long";
    case Failure::other: return "the request failed";
  }
  return "?";
}

Answer answer_of(const Response& response) {
  if (!response.whole()) return Answer::none;
  const u32 status = response.status;
  if (status < 300) return Answer::ok;
  if (status < 400) return Answer::redirect;
  if (status == 412) return Answer::precondition;
  if (status == 429 || status == 503) return Answer::slow_down;
  return status < 500 ? Answer::refused : Answer::failed;
}

namespace {

// Takes a number off the front.
std::optional<u64> take_number(std::string_view& text) {
  u64 value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}
bool take(std::string_view& text, std::string_view wanted) {
  if (!text.starts_with(wanted)) return false;
  text.remove_prefix(wanted.size());
  return true;
}

}  // namespace

std::optional<ContentRange> parse_content_range(std::string_view value) {
  ContentRange out;
  if (!take(value, "bytes ")) return std::nullopt;
  if (!take(value, "*")) {
    const std::optional<u64> first = take_number(value);
    if (!first || !take(value, "-")) return std::nullopt;
    const std::optional<u64> last = take_number(value);
    if (!last || *last < *first) return std::nullopt;
    out = {.first = *first, .last = *last, .satisfied = true};
  }
  if (!take(value, "/")) return std::nullopt;
  const std::optional<u64> total = take_number(value);
  if (!total || !value.empty() || (out.satisfied && out.last >= *total)) return std::nullopt;
  out.total = *total;
  return out;
}

std::optional<WallTime> parse_http_date(std::string_view value) {
  const std::string text(value);
  const std::time_t seconds = curl_getdate(text.c_str(), nullptr);
  if (seconds < 0) return std::nullopt;
  return WallTime(std::chrono::seconds(seconds));
}

}  // namespace zerofs::s3
