// What an answer means and what to do about it. Pure, so that every row has a test.
#pragma once

#include "s3/exchange.h"
#include "s3/xml.h"

namespace zerofs::s3 {

enum class Next : u8 {
  done,        // the answer is final: 2xx, or 404, 412, 416 that the operation understands
  again,       // nothing is known, or nothing happened: the same request once more
  conflict,    // 409: another writer is in the way, or the name exists; a few times more
  renew_keys,  // 401, 403: perhaps with newer credentials
  fix_clock,   // our clock is wrong; the answer says what time it is
  move,        // the bucket is in `region`
  unquote,     // 412 to a resumed GET: this server may want the ETag without quotes
  give_up,     // with `error`
};

struct Verdict {
  Next next = Next::done;
  Error error{Code::retry, ""};  // what the caller gets if this was the last try
  std::string why;               // for people: status, the server's code and message
  std::string region;
};

Verdict judge(const Request& request, const Response& response);

}  // namespace zerofs::s3
