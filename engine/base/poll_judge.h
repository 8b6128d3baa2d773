// Whether polling before a sleep pays: found out by trying.
//
// At queue depth 1 a wake-up may cost more than the request, or less, depending on what the machine
// does with idle cores; and from the server's side a slow client with 32 requests in the air looks
// just like a fast one with a single request. So the judge serves for a few milliseconds with and
// without polling, by turns, and polls on only if that served clearly more. It asks again soon.
#pragma once

#include "engine/base/runtime.h"

namespace zerofs {

class PollJudge {
 public:
  static constexpr Duration kWindow = 1ms;     // of one way
  static constexpr Duration kPause = 4ms;      // a longer window is not counted
  static constexpr u32 kWindows = 8;           // a trial; every other one polls
  static constexpr Duration kVerdict = 200ms;  // how long it holds
  static constexpr u32 kGainPercentMin = 30;   // in requests per time, for polling to pay

  // Requests arrived.
  void served(u32 requests) { requests_ += requests; }
  // About to sleep: poll first?
  bool should_poll(Instant now);

 private:
  void begin_window(Instant now) {
    begin_ = now;
    requests_ = 0;
  }

  u32 window_ = 0;    // of the trial; kWindows: the verdict holds
  Instant begin_{};   // of the window or the verdict
  u64 requests_ = 0;  // in it
  u64 sums_[2] = {};  // requests, without and with polling
  Duration times_[2] = {};
  bool verdict_ = true;
};

}  // namespace zerofs
