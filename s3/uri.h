// Percent-encoding as S3 signs it, and the little of URLs that an endpoint needs.
#pragma once

#include <string>

#include "engine/base/result.h"

namespace zerofs::s3 {

enum class Slash : u8 { keep, escape };

// Unreserved characters (RFC 3986) stay, every other byte becomes %XX.
std::string escape(std::string_view text, Slash slash);

// The reverse. Listings encode a space as '+'. A '%' without two digits stays as it is.
enum class Plus : u8 { keep, is_space };
std::string unescape(std::string_view text, Plus plus);

struct Url {
  bool tls = false;
  std::string host;  // an IPv6 address with its brackets
  u32 port = 0;      // 0: the scheme's own
  friend bool operator==(const Url&, const Url&) = default;

  std::string authority() const;  // host[:port], as in the Host header
  std::string text() const;       // scheme://host[:port]
};

// "http[s]://host[:port][/]" and nothing behind it. Errors: invalid.
Result<Url> parse_url(std::string_view text);

// Is the host an address rather than a name?
bool is_address(std::string_view host);

}  // namespace zerofs::s3
