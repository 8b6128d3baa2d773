#include "s3/uri.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace zerofs::s3 {

namespace {

constexpr char kDigits[] = "0123456789ABCDEF";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_unreserved(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '.' ||
         c == '_' || c == '~';
}
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

std::string escape(std::string_view text, Slash slash) {
  std::string out;
  out.reserve(text.size() + 16);
  for (const char c : text) {
    if (is_unreserved(c) || (c == '/' && slash == Slash::keep)) {
      out += c;
    } else {
      const u8 byte = static_cast<u8>(c);
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

std::string unescape(std::string_view text, Plus plus) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 &&
        hex_value(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    } else if (text[i] == '+' && plus == Plus::is_space) {
      out += ' ';
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string Url::authority() const {
  return port == 0 ? host : fmt::format("{}:{}", host, port);
}
std::string Url::text() const {
  return (tls ? "https://" : "http://") + authority();
}

Result<Url> parse_url(std::string_view text) {
  Url url;
  if (text.starts_with("https://")) {
    url.tls = true;
    text.remove_prefix(8);
  } else if (text.starts_with("http://")) {
    text.remove_prefix(7);
  } else {
    return invalid("an endpoint is http://host[:port] or https://host[:port]");
  }
  if (text.ends_with('/')) text.remove_suffix(1);
  const std::size_t bracket = text.find(']');
  const std::size_t colon = text.find(':', bracket == text.npos ? 0 : bracket);
  url.host = text.substr(0, colon);
  const auto is_host_character = [](char c) {
    return is_unreserved(c) || c == '[' || c == ']' || c == ':';
  };
  if (url.host.empty() || !std::ranges::all_of(url.host, is_host_character)) {
    return invalid("an endpoint has a host, a port perhaps, and nothing behind them");
  }
  if (colon == text.npos) return url;
  const std::string_view digits = text.substr(colon + 1);
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), url.port);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() || url.port == 0 ||
      url.port > 65535) {
    return invalid("an endpoint's port is a number from 1 to 65535");
  }
  if (url.port == (url.tls ? 443U : 80U)) url.port = 0;
  return url;
}

bool is_address(std::string_view host) {
  if (host.starts_with('[')) return true;
  return !host.empty() && std::ranges::all_of(host, [](char c) { return is_digit(c) || c == '.'; });
}

}  // namespace zerofs::s3
