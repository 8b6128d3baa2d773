// Performs one request until its answer is final or its time is over: waits for credentials, hashes
// large bodies on a worker, retries with back-off, resumes reads, renews keys, fixes the clock,
// follows the bucket to its region.
#pragma once

#include "s3/credentials.h"
#include "s3/lane.h"
#include "s3/verdict.h"

namespace zerofs::s3 {

class Client {
 public:
  Client(Config config, Place place, Runtime runtime, Mailbox& mailbox);

  // Ends with a final response (Next::done), or with an Error. One exception: a suffix read that
  // was interrupted comes back as it is, so that the caller can read the rest as a range.
  // `request` is changed on the way.
  Task<Response> perform(Request& request);

  Shared& shared() { return shared_; }

 private:
  struct Progress;
  struct Send;
  Task<> credentials_ready(Instant deadline);
  bool needs_hash(const Request& request) const;
  Task<> hash_body(Request& request);
  Task<> renew(const Response& response, Progress& progress, const Error& otherwise);
  Result<> move(const Verdict& verdict, Progress& progress);
  Result<> fix_clock(const Response& response, const Verdict& verdict, Progress& progress);
  void keep_what_arrived(Request& request, const Response& response, Progress& progress);
  Result<> forget_quotes(Request& request, const Verdict& verdict, Progress& progress);
  void complain(const Verdict& verdict);

  Runtime runtime_;
  Shared shared_;
  CredentialKeeper keeper_;
  Lane log_lane_;
  Lane data_lane_;
  std::string complained_of_;
  Instant complained_at_{};
};

}  // namespace zerofs::s3
