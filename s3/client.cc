#include "s3/client.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/store/backoff.h"

namespace zerofs::s3 {

namespace {

constexpr Duration kRetryMin = 50ms;
constexpr Duration kRetryMax = 5s;
// Then the caller looks at what is there: some servers say 409 for "exists".
constexpr u32 kConflictsMax = 3;
constexpr u64 kHashInlineBytesMax = 64 * kKiB;
constexpr Duration kComplainEvery = 10s;

}  // namespace

// What has been tried already in one perform().
struct Client::Progress {
  Instant deadline;
  u32 tries = 0;
  u32 conflicts = 0;
  bool renewed = false;
  bool moved = false;
  bool clock_fixed = false;
  bool restarted = false;  // a read, from its first byte
};

// co_await Send{lane, exchange};
struct Client::Send {
  Lane& lane;
  Exchange& exchange;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    exchange.waiting = handle;
    lane.submit(exchange);
  }
  void await_resume() {}
};

Client::Client(Config config, Place place, Runtime runtime, Mailbox& mailbox)
    : runtime_(runtime),
      shared_(std::move(config), std::move(place)),
      keeper_(shared_, mailbox),
      log_lane_(shared_, mailbox, "s3-log"),
      data_lane_(shared_, mailbox, "s3-data") {}

Task<Response> Client::perform(Request& request) {
  Progress progress{.deadline = runtime_.clock.now() + shared_.config.deadlines.operation};
  if (shared_.keys().credentials == nullptr) co_await credentials_ready(progress.deadline);
  if (needs_hash(request)) co_await hash_body(request);
  Lane& lane = request.klass == store::Class::log ? log_lane_ : data_lane_;
  store::Backoff backoff(kRetryMin, kRetryMax, runtime_.random);
  for (;;) {
    Exchange exchange(request);
    co_await Send{lane, exchange};
    Response& response = exchange.response;
    ++progress.tries;
    const Verdict verdict = judge(request, response);
    if (verdict.next == Next::done) {
      shared_.health.success(runtime_.clock.now());
      co_return std::move(response);
    }
    shared_.health.failure(verdict.why, runtime_.clock.now());

    Duration wait{};
    switch (verdict.next) {
      case Next::done: break;
      case Next::give_up: complain(verdict); co_return std::unexpected(verdict.error);
      case Next::renew_keys: co_await renew(response, progress, verdict.error); break;
      case Next::move: co_await move(verdict, progress); break;
      case Next::fix_clock: co_await fix_clock(response, verdict, progress); break;
      case Next::unquote: co_await forget_quotes(request, verdict, progress); break;
      case Next::conflict:
        if (++progress.conflicts >= kConflictsMax) co_return std::unexpected(verdict.error);
        wait = backoff.next();
        break;
      case Next::again:
        if (request.suffix != 0 && response.received != 0 && response.content_range &&
            response.content_range->satisfied && !response.whole()) {
          co_return std::move(response);
        }
        keep_what_arrived(request, response, progress);
        wait = std::max(backoff.next(), std::min(response.retry_after.value_or(0s), kRetryMax));
        break;
    }
    if (runtime_.clock.now() + wait >= progress.deadline) co_return std::unexpected(verdict.error);
    ++shared_.stats.retries[static_cast<u32>(request.klass)];
    if (wait > 0s) co_await sleep_for(runtime_, wait);
  }
}

Task<> Client::credentials_ready(Instant deadline) {
  store::Backoff backoff(kRetryMin, kRetryMax, runtime_.random);
  while (shared_.keys().credentials == nullptr) {
    const Result<> asked = co_await keeper_.after(0);
    if (asked) continue;
    shared_.health.failure(asked.error().text(), runtime_.clock.now());
    if (asked.error().code() == Code::denied || runtime_.clock.now() >= deadline) {
      co_return std::unexpected(asked.error());
    }
    co_await sleep_for(runtime_, backoff.next());
  }
  co_return {};
}

// Small bodies are hashed by the lane: the way to a worker costs more.
bool Client::needs_hash(const Request& request) const {
  if (request.body.size() <= kHashInlineBytesMax || request.body_hash) return false;
  const Payload payload = shared_.config.payload;
  return payload == Payload::signed_ ||
         (payload == Payload::automatic && !shared_.place()->base.tls);
}

Task<> Client::hash_body(Request& request) {
  auto work = [body = request.body] { return sha256(body); };
  const Priority priority = request.klass == store::Class::bulk ? Priority::bulk : Priority::urgent;
  request.body_hash = co_await offload(runtime_.executor, priority, std::move(work));
  co_return {};
}

Task<> Client::renew(const Response& response, Progress& progress, const Error& otherwise) {
  if (progress.renewed || !keeper_.can_renew()) {
    complain({.error = otherwise, .why = shared_.health.state(runtime_.clock.now()).last_error});
    co_return std::unexpected(otherwise);
  }
  progress.renewed = true;
  const Result<> renewed = co_await keeper_.after(response.credentials_generation);
  if (!renewed) co_return renewed;
  co_return {};
}

Result<> Client::move(const Verdict& verdict, Progress& progress) {
  if (progress.moved) {
    complain(verdict);
    return std::unexpected(verdict.error);
  }
  progress.moved = true;
  spdlog::warn("S3: the bucket is in region {}; using that", verdict.region);
  TRY(Place place, place_of(shared_.config, verdict.region));
  shared_.move_to(std::move(place));
  return {};
}

Result<> Client::fix_clock(const Response& response, const Verdict& verdict, Progress& progress) {
  if (progress.clock_fixed || !response.date) {
    complain(verdict);
    return std::unexpected(verdict.error);
  }
  progress.clock_fixed = true;
  const auto skew = std::chrono::round<std::chrono::seconds>(*response.date - now_wall());
  spdlog::warn("S3: this machine's clock is {} s off the server's; signing with the server's",
               -skew.count());
  shared_.clock_skew_s = skew.count();
  return {};
}

// A read goes on behind its last byte, if the object is still the same.
void Client::keep_what_arrived(Request& request, const Response& response, Progress& progress) {
  const bool resumable =
      request.range && (response.status == 206 || response.status == 200) && response.received != 0;
  if (!resumable) return;
  request.filled += response.received;
  if (request.filled == request.into.size()) request.filled = 0;  // only its end was wrong
  progress.deadline = runtime_.clock.now() + shared_.config.deadlines.operation;
  ++shared_.stats.resumes;
  request.if_match = response.etag.starts_with("W/") ? "" : response.etag;
  if (shared_.unquoted_etags) std::erase(request.if_match, '"');
}

Result<> Client::forget_quotes(Request& request, const Verdict& verdict, Progress& progress) {
  if (request.if_match.find('"') != std::string::npos) {
    shared_.unquoted_etags = true;
    std::erase(request.if_match, '"');
    return {};
  }
  // Then it did change, which an object of ours never does; or this server is beyond that.
  if (progress.restarted) return std::unexpected(verdict.error);
  progress.restarted = true;
  request.filled = 0;
  request.if_match.clear();
  return {};
}

// A refusal may be repeated by every request there is: once in a while is enough.
void Client::complain(const Verdict& verdict) {
  const Instant now = runtime_.clock.now();
  if (complained_of_ == verdict.error.text() && now - complained_at_ < kComplainEvery) return;
  complained_of_ = verdict.error.text();
  complained_at_ = now;
  spdlog::error("{} [{}]", verdict.error.text(), verdict.why);
}

}  // namespace zerofs::s3
