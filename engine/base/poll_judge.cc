#include "engine/base/poll_judge.h"

namespace zerofs {

bool PollJudge::should_poll(Instant now) {
  const Duration passed = now - begin_;
  if (window_ == kWindows) {
    if (passed < kVerdict) return verdict_;
    window_ = 0;
    sums_[0] = sums_[1] = 0;
    times_[0] = times_[1] = Duration(0);
    begin_window(now);
  } else if (passed > kPause) {
    // The client had nothing to say, for which neither way is to blame.
    begin_window(now);
    return false;
  } else if (passed >= kWindow) {
    const u32 way = window_ % 2;
    sums_[way] += requests_;
    times_[way] += passed;
    begin_window(now);
    if (++window_ == kWindows) {
      const double without = static_cast<double>(sums_[0]) / static_cast<double>(times_[0].count());
      const double with = static_cast<double>(sums_[1]) / static_cast<double>(times_[1].count());
      verdict_ = with * 100 > without * (100 + kGainPercentMin);
      return verdict_;
    }
  }
  return window_ % 2 == 1;
}

}  // namespace zerofs
