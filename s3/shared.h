// What the reactor's thread, the transport threads and the credentials' thread have in common.
// Everything here may be used from any thread.
#pragma once

#include <atomic>
#include <mutex>

#include "s3/exchange.h"
#include "s3/governor.h"
#include "s3/hedge.h"
#include "s3/s3_store.h"
#include "s3/uri.h"

namespace zerofs::s3 {

// Where requests go. Replaced as a whole when the bucket turns out to live in another region.
struct Place {
  Url base;          // of virtual-host style with the bucket in it
  std::string path;  // "/" or "/bucket/"
  std::string region;
};
// Errors: invalid.
Result<Place> place_of(const Config& config, const std::string& region);

Instant now_monotonic();
WallTime now_wall();

class Stats {
 public:
  void note(Operation operation, store::Class klass, Answer answer, Duration latency);
  void fill(Counters& out) const;

  std::array<std::atomic<u64>, kClasses> sent_bytes{};
  std::array<std::atomic<u64>, kClasses> received_bytes{};
  std::array<std::atomic<u64>, kClasses> retries{};
  std::array<std::atomic<u32>, kClasses> in_flight{};
  std::array<std::atomic<u32>, kClasses> waiting{};
  std::atomic<u64> hedges{};
  std::atomic<u64> hedges_won{};
  std::atomic<u64> resumes{};
  std::atomic<u64> connections{};
  std::atomic<u64> credential_refreshes{};

 private:
  struct Cell {
    std::atomic<u64> requests{};
    std::atomic<u64> latency_us{};
    std::array<std::atomic<u64>, kLatencyBoundsUs.size() + 1> latency{};
  };
  std::array<std::array<std::array<Cell, kAnswers>, kClasses>, kOperations> cells_{};
};

// Reachable until a request fails, unreachable until one is answered.
class Health {
 public:
  // Says so in the log when that ends an outage.
  void success(Instant now);
  void failure(std::string text, Instant now);
  State state(Instant now) const;

 private:
  std::atomic<bool> failing_ = false;
  mutable std::mutex mutex_;
  Instant failing_since_{};
  Instant logged_at_{};
  std::string last_error_;
};

// The keys that sign, and which edition of them this is.
struct SigningKeys {
  std::shared_ptr<const Credentials> credentials;  // null: not there yet
  u64 generation = 0;
};

class Shared {
 public:
  Shared(Config config_, Place place)
      : config(std::move(config_)),
        governor_(config.caps),
        hedging_(config.hedging),
        place_(std::make_shared<const Place>(std::move(place))) {}

  const Config config;
  Stats stats;
  Health health;
  std::atomic<i64> clock_skew_s = 0;         // the server's clock minus ours
  std::atomic<bool> unquoted_etags = false;  // this endpoint wants If-Match without quotes

  std::shared_ptr<const Place> place() const {
    const std::scoped_lock lock(mutex_);
    return place_;
  }
  void move_to(Place place) {
    const std::scoped_lock lock(mutex_);
    place_ = std::make_shared<const Place>(std::move(place));
  }
  SigningKeys keys() const {
    const std::scoped_lock lock(mutex_);
    return keys_;
  }
  void set_credentials(Credentials credentials) {
    auto made = std::make_shared<const Credentials>(std::move(credentials));
    const std::scoped_lock lock(mutex_);
    keys_ = {.credentials = std::move(made), .generation = keys_.generation + 1};
  }

  u32 cap(store::Class klass, Instant now) {
    const std::scoped_lock lock(mutex_);
    return governor_.cap(klass, now);
  }
  void slow_down(store::Class klass, Instant now) {
    const std::scoped_lock lock(mutex_);
    governor_.slow_down(klass, now);
  }
  template <class Function>
  auto with_hedging(Function function) {
    const std::scoped_lock lock(mutex_);
    return function(hedging_);
  }

 private:
  mutable std::mutex mutex_;
  Governor governor_;
  HedgePolicy hedging_;
  std::shared_ptr<const Place> place_;
  SigningKeys keys_;
};

}  // namespace zerofs::s3
