// When to send a GET a second time: after the running p95 of first bytes, and only within a budget.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "s3/config.h"

namespace zerofs::s3 {

// Not thread-safe.
class HedgePolicy {
 public:
  explicit HedgePolicy(const Hedging& hedging) : hedging_(hedging) {}

  // A GET was started: it earns its part of a hedge.
  void earn() { tokens_ = std::min(kTokensMax, tokens_ + hedging_.budget); }
  bool spend() {
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  bool enabled() const { return hedging_.budget > 0; }

  Duration delay() const { return std::max(hedging_.delay_min, p95_); }
  void note_first_byte(Duration after) {
    samples_[count_++ % kSamples] = after;
    if (count_ >= kSamplesMin && count_ % 16 == 0) p95_ = quantile();
  }

 private:
  static constexpr double kTokensMax = 16;
  static constexpr u64 kSamples = 256;
  static constexpr u64 kSamplesMin = 16;

  Duration quantile() const {
    const u64 filled = std::min(count_, kSamples);
    std::vector<Duration> sorted(samples_.begin(),
                                 samples_.begin() + static_cast<std::ptrdiff_t>(filled));
    const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(filled * 95 / 100);
    std::ranges::nth_element(sorted, at);
    return *at;
  }

  Hedging hedging_;
  double tokens_ = 1;
  std::array<Duration, kSamples> samples_{};
  u64 count_ = 0;
  // Until something was measured: late enough to be sure that something is wrong.
  Duration p95_ = 250ms;
};

}  // namespace zerofs::s3
