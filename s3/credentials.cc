#include "s3/credentials.h"

#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace zerofs::s3 {

namespace {

constexpr Duration kRenewBefore = 5 * 60s;
constexpr Duration kFailedAgainMin = 1s;
constexpr Duration kFailedAgainMax = 30s;

}  // namespace

Duration renew_after(const Credentials& credentials, WallTime now) {
  if (!credentials.expires) return std::chrono::hours(24 * 365);
  const Duration left = *credentials.expires - now;
  return std::max<Duration>(kFailedAgainMin, std::max<Duration>(left / 2, left - kRenewBefore));
}

CredentialKeeper::CredentialKeeper(Shared& shared, Mailbox& mailbox)
    : shared_(shared), mailbox_(mailbox) {
  const CredentialOptions& options = shared.config.credentials;
  if (options.anonymous || !options.access_key.empty()) {
    shared.set_credentials({.access_key = options.access_key,
                            .secret_key = options.secret_key,
                            .session_token = options.session_token,
                            .anonymous = options.anonymous});
    return;
  }
  const auto serve = [this] {
    pthread_setname_np(pthread_self(), "s3-keys");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    run();
  };
  thread_ = std::thread(serve);
}

CredentialKeeper::~CredentialKeeper() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    INVARIANT(waiting_.empty());
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool CredentialKeeper::After::await_suspend(std::coroutine_handle<> handle) {
  handle_ = handle;
  mailbox = &keeper_.mailbox_;
  {
    const std::scoped_lock lock(keeper_.mutex_);
    if (keeper_.shared_.keys().generation > generation_) return false;
    keeper_.waiting_.push_back(this);
  }
  keeper_.changed_.notify_all();
  return true;
}

void CredentialKeeper::run() {
  std::unique_lock lock(mutex_);
  Duration retry = kFailedAgainMin;
  while (!stopping_) {
    std::vector<After*> asking;
    asking.swap(waiting_);
    lock.unlock();
    const Result<Credentials> fetched = fetch_credentials(
        shared_.config.credentials, shared_.place()->region, shared_.config.ca_file);
    Duration sleep;
    if (fetched) {
      shared_.set_credentials(*fetched);
      ++shared_.stats.credential_refreshes;
      sleep = renew_after(*fetched, now_wall());
      retry = kFailedAgainMin;
    } else {
      spdlog::warn("S3: no new credentials: {}", fetched.error().text());
      sleep = retry;
      retry = std::min(2 * retry, kFailedAgainMax);
    }
    for (After* after : asking) {
      if (!fetched) after->result_ = std::unexpected(fetched.error());
      mailbox_.deliver(*after);
    }
    lock.lock();
    // Whoever came meanwhile is served by what was just fetched, if that worked.
    if (fetched) {
      std::erase_if(waiting_, [this](After* after) {
        const bool served = shared_.keys().generation > after->generation_;
        if (served) mailbox_.deliver(*after);
        return served;
      });
    }
    changed_.wait_for(lock, sleep, [this] { return stopping_ || !waiting_.empty(); });
  }
}

}  // namespace zerofs::s3
