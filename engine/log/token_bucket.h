// A token bucket: `rate` tokens a second, at most `capacity`, full at the start.
#pragma once

#include <algorithm>

#include "engine/base/runtime.h"

namespace zerofs::log {

class TokenBucket {
 public:
  TokenBucket(double rate, double capacity) : rate_(rate), capacity_(capacity), level_(capacity) {}

  bool take(Instant now) {
    refill(now);
    if (level_ < 1) return false;
    level_ -= 1;
    return true;
  }
  // When the next token will be there.
  Instant next(Instant now) {
    refill(now);
    if (level_ >= 1) return now;
    return now + Duration(static_cast<i64>((1 - level_) / rate_ * 1e9) + 1);
  }
  double level() const { return level_; }

 private:
  void refill(Instant now) {
    if (last_ != Instant{} && now > last_) {
      level_ = std::min(capacity_, level_ + rate_ * std::chrono::duration<double>(now - last_).count());
    }
    last_ = now;
  }
  double rate_;
  double capacity_;
  double level_;
  Instant last_{};
};

}  // namespace zerofs::log
