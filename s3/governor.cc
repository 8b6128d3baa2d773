#include "s3/governor.h"

#include <algorithm>

namespace zerofs::s3 {

u32 Governor::cap(store::Class klass, Instant now) {
  if (reduced_) recover(now);
  return caps_[static_cast<u32>(klass)];
}

void Governor::slow_down(store::Class klass, Instant now) {
  if (reduced_ && now - halved_at_ < kHalvingEvery) return;
  halved_at_ = now;
  recovered_at_ = now;
  reduced_ = true;
  const auto halve = [](u32& cap) { cap = std::max(std::min(cap, kCapMin), cap / 2); };
  u32& bulk = caps_[static_cast<u32>(store::Class::bulk)];
  u32& own = caps_[static_cast<u32>(klass)];
  const bool bulk_can_give = bulk > kCapMin;
  halve(bulk_can_give ? bulk : own);
}

void Governor::recover(Instant now) {
  while (now - recovered_at_ >= kRecoveryEvery) {
    recovered_at_ += kRecoveryEvery;
    reduced_ = false;
    for (std::size_t i = 0; i < caps_.size(); ++i) {
      caps_[i] = std::min(full_[i], caps_[i] + std::max(1U, full_[i] / 16));
      reduced_ = reduced_ || caps_[i] < full_[i];
    }
    if (!reduced_) return;
  }
}

}  // namespace zerofs::s3
