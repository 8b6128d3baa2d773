// How many requests of each class may be in flight. A server that says "slow down" gets half, bulk
// first; places come back one by one.
#pragma once

#include <array>

#include "engine/store/object_store.h"
#include "s3/config.h"

namespace zerofs::s3 {

// Any number of answers that were under way when the server began to complain count as one.
constexpr Duration kHalvingEvery = 500ms;
// A sixteenth of the full cap comes back each time.
constexpr Duration kRecoveryEvery = 1s;
constexpr u32 kCapMin = 2;

// Not thread-safe.
class Governor {
 public:
  explicit Governor(const Caps& caps) : full_{caps.log, caps.foreground, caps.bulk}, caps_(full_) {}

  u32 cap(store::Class klass, Instant now);
  // A request of `klass` was told to slow down. Bulk pays first; when it has nothing left to give,
  // the class itself does.
  void slow_down(store::Class klass, Instant now);

 private:
  void recover(Instant now);

  std::array<u32, 3> full_;
  std::array<u32, 3> caps_;  // by Class
  Instant halved_at_{};
  Instant recovered_at_{};
  bool reduced_ = false;
};

}  // namespace zerofs::s3
