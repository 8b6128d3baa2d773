// A store with short deadlines against a scripted server.
#pragma once

#include <fmt/format.h>

#include "tests/s3/scripted_server.h"
#include "tests/s3/world.h"

namespace zerofs::s3::test {

using Connection = ScriptedServer::Connection;

inline Config config_for(const std::string& endpoint) {
  Config config{.bucket = "b", .prefix = "p", .endpoint = endpoint};
  config.credentials.access_key = "KEY";
  config.credentials.secret_key.value = "SECRET-NEVER-SHOWN";
  config.deadlines = {
      .connect = 500ms, .first_byte = 400ms, .stall = 300ms, .operation = 3s, .idle = 4s};
  config.hedging.budget = 0;
  return config;
}

template <class T>
Code code_of(const Result<T>& result) {
  REQUIRE_FALSE(result.has_value());
  return result.error().code();
}

struct AskedRange {
  u64 first = 0;
  u64 last = 0;
};
inline AskedRange asked_range(const Seen& seen, u64 total) {
  const std::string range = seen.header("range");
  if (range.empty()) return {0, total - 1};
  REQUIRE(range.starts_with("bytes="));
  const std::size_t dash = range.find('-');
  if (dash == 6) return {total - std::min<u64>(total, std::stoull(range.substr(7))), total - 1};
  return {std::stoull(range.substr(6)),
          std::min<u64>(total - 1, std::stoull(range.substr(dash + 1)))};
}

// Answers a range request for `body` rightly, but sends only `bytes_max` of it.
inline void send_part(const Seen& seen, Connection& connection, Bytes body, u64 bytes_max) {
  const AskedRange range = asked_range(seen, body.size());
  const u64 bytes = range.last - range.first + 1;
  connection.send(
      fmt::format("HTTP/1.1 206 Partial\r\nETag: \"tag\"\r\nContent-Length: {}\r\n"
                  "Content-Range: bytes {}-{}/{}\r\n\r\n",
                  bytes, range.first, range.last, body.size()));
  connection.send(std::string(text_of(body.subspan(range.first, std::min(bytes, bytes_max)))));
}

}  // namespace zerofs::s3::test
