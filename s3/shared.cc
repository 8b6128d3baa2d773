#include "s3/shared.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>

namespace zerofs::s3 {

Instant now_monotonic() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Instant(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}
WallTime now_wall() {
  return std::chrono::time_point_cast<Duration>(std::chrono::system_clock::now());
}

Result<Place> place_of(const Config& config, const std::string& region) {
  const bool aws = config.endpoint.empty();
  TRY(Url base,
      parse_url(aws ? fmt::format("https://s3.{}.amazonaws.com", region) : config.endpoint));
  bool in_host = config.addressing == Addressing::virtual_host;
  if (config.addressing == Addressing::automatic) {
    // A certificate for *.s3.… does not cover a dot.
    in_host = aws && config.bucket.find('.') == std::string::npos;
  }
  if (in_host && is_address(base.host)) {
    return invalid("virtual-host addressing needs an endpoint with a name, not an address");
  }
  if (in_host) {
    base.host = config.bucket + "." + base.host;
    return Place{.base = std::move(base), .path = "/", .region = region};
  }
  return Place{.base = std::move(base),
               .path = "/" + escape(config.bucket, Slash::escape) + "/",
               .region = region};
}

void Stats::note(Operation operation, store::Class klass, Answer answer, Duration latency) {
  Cell& cell =
      cells_[static_cast<u32>(operation)][static_cast<u32>(klass)][static_cast<u32>(answer)];
  const u64 us = static_cast<u64>(std::max<i64>(0, latency.count() / 1000));
  const auto bound = std::ranges::lower_bound(kLatencyBoundsUs, us);
  cell.latency[static_cast<u64>(bound - kLatencyBoundsUs.begin())].fetch_add(
      1, std::memory_order_relaxed);
  cell.latency_us.fetch_add(us, std::memory_order_relaxed);
  cell.requests.fetch_add(1, std::memory_order_relaxed);
}

void Stats::fill(Counters& out) const {
  const auto get = [](const auto& value) { return value.load(std::memory_order_relaxed); };
  for (u32 o = 0; o < kOperations; ++o) {
    for (u32 c = 0; c < kClasses; ++c) {
      for (u32 a = 0; a < kAnswers; ++a) {
        const Cell& from = cells_[o][c][a];
        Counters::Cell& to = out.cells[o][c][a];
        to.requests = get(from.requests);
        to.latency_us = get(from.latency_us);
        for (std::size_t i = 0; i < to.latency.size(); ++i) to.latency[i] = get(from.latency[i]);
      }
    }
  }
  for (u32 c = 0; c < kClasses; ++c) {
    out.sent_bytes[c] = get(sent_bytes[c]);
    out.received_bytes[c] = get(received_bytes[c]);
    out.retries[c] = get(retries[c]);
    out.in_flight[c] = get(in_flight[c]);
    out.waiting[c] = get(waiting[c]);
  }
  out.hedges = get(hedges);
  out.hedges_won = get(hedges_won);
  out.resumes = get(resumes);
  out.connections = get(connections);
  out.credential_refreshes = get(credential_refreshes);
}

void Health::success(Instant now) {
  if (!failing_.load(std::memory_order_relaxed)) return;
  const std::scoped_lock lock(mutex_);
  if (!failing_) return;
  failing_ = false;
  const double seconds = std::chrono::duration<double>(now - failing_since_).count();
  // A single lost request is nobody's news.
  if (logged_at_ >= failing_since_)
    spdlog::info("S3: requests succeed again after {:.1f} s", seconds);
}

void Health::failure(std::string text, Instant now) {
  constexpr Duration kNewsAfter = 1s;
  constexpr Duration kNewsEvery = 30s;
  const std::scoped_lock lock(mutex_);
  if (!failing_) {
    failing_ = true;
    failing_since_ = now;
  }
  last_error_ = std::move(text);
  const Duration failing = now - failing_since_;
  if (failing < kNewsAfter) return;
  if (logged_at_ >= failing_since_ && now - logged_at_ < kNewsEvery) return;
  logged_at_ = now;
  spdlog::warn("S3: no request has succeeded for {:.1f} s: {}",
               std::chrono::duration<double>(failing).count(), last_error_);
}

State Health::state(Instant now) const {
  const std::scoped_lock lock(mutex_);
  const bool failing = failing_;
  return {.reachable = !failing,
          .failing_for = failing ? now - failing_since_ : Duration{},
          .last_error = last_error_};
}

}  // namespace zerofs::s3
