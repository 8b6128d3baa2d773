// Exponential back-off with full jitter: the wait before the next try is uniform in
// [0, min(max, min_ * 2^tries)), at least a tenth of the minimum.
#pragma once

#include <algorithm>

#include "engine/base/runtime.h"

namespace zerofs::store {

class Backoff {
 public:
  Backoff(Duration min, Duration max, Random& random) : bound_(min), max_(max), random_(random) {}
  Duration next() {
    const u64 span = static_cast<u64>(bound_.count());
    const Duration wait{static_cast<i64>(span / 10 + random_.next() % span)};
    bound_ = std::min(max_, bound_ * 2);
    return wait;
  }

 private:
  Duration bound_;
  Duration max_;
  Random& random_;
};

}  // namespace zerofs::store
