// Where keys come from, and a thread that renews those that expire.
#pragma once

#include <condition_variable>
#include <thread>

#include "s3/shared.h"

namespace zerofs::s3 {

// Asks the first source that is configured (CredentialOptions says the order). Blocks: the network
// sources have a few seconds each. Errors: retry (a source that should answer does not), denied
// (a source refuses, or there is none; the log says which).
Result<Credentials> fetch_credentials(const CredentialOptions& options, const std::string& region,
                                      const std::string& ca_file);

// Answers of the sources. Total.
Result<Credentials> parse_credentials_json(std::string_view text);
Result<Credentials> parse_assume_role(Bytes xml);
std::optional<WallTime> parse_iso_time(std::string_view text);  // 2026-01-02T03:04:05Z

// How long to use credentials before asking for newer ones.
Duration renew_after(const Credentials& credentials, WallTime now);

class CredentialKeeper {
 public:
  // Keys given in the configuration are there at once and for good; for all others a thread
  // fetches them. `mailbox` takes those that wait.
  CredentialKeeper(Shared& shared, Mailbox& mailbox);
  // Nobody may be waiting.
  ~CredentialKeeper();
  CredentialKeeper(const CredentialKeeper&) = delete;

  bool can_renew() const { return thread_.joinable(); }

  // co_await keeper.after(generation): until newer keys than those of `generation` are there, or
  // asking for them has failed. Yields what happened.
  class After final : Job {
   public:
    After(CredentialKeeper& keeper, u64 generation) : keeper_(keeper), generation_(generation) {}
    bool await_ready() { return keeper_.shared_.keys().generation > generation_; }
    bool await_suspend(std::coroutine_handle<> handle);
    Result<> await_resume() { return result_; }

   private:
    friend class CredentialKeeper;
    void run() override {}
    void finish() override { handle_.resume(); }
    CredentialKeeper& keeper_;
    u64 generation_;
    std::coroutine_handle<> handle_;
    Result<> result_;
  };
  After after(u64 generation) { return {*this, generation}; }

 private:
  void run();

  Shared& shared_;
  Mailbox& mailbox_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<After*> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace zerofs::s3
