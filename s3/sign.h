// Signature version 4 in the Authorization header (AWS: "Authenticating Requests: Using the
// Authorization Header"), in one chunk. Pure: the caller says what time it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/base/runtime.h"
#include "s3/config.h"
#include "s3/hash.h"

namespace zerofs::s3 {

struct Credentials {
  std::string access_key;
  Secret secret_key;
  Secret session_token;             // empty: none
  std::optional<WallTime> expires;  // none: they do not
  bool anonymous = false;           // requests are not signed
};

// Names in lower case, values without white space at either end.
struct Header {
  std::string name;
  std::string value;
};

struct ToSign {
  std::string_view method;
  std::string_view path;          // escaped, begins with '/'
  std::string_view query;         // escaped and sorted: canonical_query()
  std::string_view payload_hash;  // hex, or "UNSIGNED-PAYLOAD"
  std::string_view service = "s3";
};

inline constexpr std::string_view kUnsignedPayload = "UNSIGNED-PAYLOAD";

// name=value pairs, escaped and in byte order.
struct Parameter {
  std::string name;
  std::string value;
};
std::string canonical_query(const std::vector<Parameter>& parameters);

std::string amz_date(WallTime now);  // 20130524T000000Z

// The key of a day and region, which many requests share.
class Signer {
 public:
  // The value of Authorization. `headers` are all signed: host, x-amz-date and whatever else is
  // sent of x-amz-*; in any order, each name once.
  std::string authorization(const ToSign& request, std::vector<Header> headers,
                            const Credentials& credentials, std::string_view region, WallTime now);

 private:
  const Sha256& key(const Credentials& credentials, std::string_view day, std::string_view region,
                    std::string_view service);
  std::string key_for_;  // what key_ was made from
  std::string key_secret_;
  Sha256 key_{};
};

}  // namespace zerofs::s3
