// One attempt at a request and what came of it: the message between the reactor's thread, which
// decides, and a transport thread, which moves bytes.
#pragma once

#include "s3/counters.h"
#include "s3/sign.h"

namespace zerofs::s3 {

enum class Method : u8 { get, head, put, post, remove };
std::string_view verb(Method method);

// Bytes first..last of the object.
struct Range {
  u64 first = 0;
  u64 last = 0;
};

struct Request {
  Operation operation = Operation::get;
  store::Class klass = store::Class::foreground;
  Method method = Method::get;
  std::string key;               // in the bucket, unescaped; empty: the bucket itself
  std::vector<Parameter> query;  // unescaped
  std::vector<Header> headers;   // besides host, authorization, x-amz-*, range, if-match
  Bytes body;
  std::optional<Sha256> body_hash;  // known already; else the transport hashes when it must

  // GET of an object: with `range`, bytes go to `into` from `filled` on, and the request asks for
  // the rest; with `suffix`, the last bytes go to Response::body.
  std::optional<Range> range;
  MutableBytes into;
  u64 filled = 0;
  u64 suffix = 0;
  std::string if_match;  // set when a GET is resumed

  u64 body_max = 16 * kMiB;  // of Response::body
};

enum class Failure : u8 {
  none,        // a whole answer
  connect,     // no connection in time
  first_byte,  // no answer in time
  stall,       // it stopped half way
  reset,       // the connection broke
  truncated,   // it ended early
  tls,         // the server's certificate is not to be trusted
  too_long,    // more bytes than asked for, or slower than any deadline
  other,
};
const char* name_of(Failure failure);

struct ContentRange {
  u64 first = 0;
  u64 last = 0;
  u64 total = 0;
  bool satisfied = false;  // "bytes first-last/total"; else "bytes */total"
};

struct Response {
  Failure failure = Failure::none;
  const char* failure_text = "";  // libcurl's words, static
  u32 status = 0;                 // 0: no status line came
  std::string etag;
  std::optional<ContentRange> content_range;
  std::optional<u64> content_length;
  std::optional<WallTime> date;
  std::string region;  // x-amz-bucket-region
  std::string location;
  std::string request_id;
  std::optional<Duration> retry_after;
  u64 received = 0;                // bytes of the object in `into`, after `filled`, or in `body`
  Buffer body;                     // what is not written to `into`; the error document of a refusal
  u64 credentials_generation = 0;  // of the keys that signed it
  std::string region_used;

  bool whole() const { return failure == Failure::none; }
  bool ok() const { return whole() && status >= 200 && status < 300; }
};

Answer answer_of(const Response& response);

// Header values, total: nonsense is nothing.
std::optional<ContentRange> parse_content_range(std::string_view value);
std::optional<WallTime> parse_http_date(std::string_view value);

// Lives in the coroutine that awaits it.
struct Exchange final : Job {
  Exchange(Request& request_) : request(request_) {}
  void run() override {}
  void finish() override { waiting.resume(); }

  Request& request;
  Response response;
  std::coroutine_handle<> waiting;
};

}  // namespace zerofs::s3
