// An executor and clock in virtual time: resumes what was posted, then finishes jobs (run at once,
// on submission), then steps to the next timer. No thread, no kernel, the same order every time.
#pragma once

#include <deque>

#include "engine/base/runtime.h"
#include "engine/base/timer_heap.h"

namespace zerofs {

class Loop final : public Executor, public Clock {
 public:
  void post(std::coroutine_handle<> handle) override { ready_.push_back(handle); }
  void submit(Job& job, Priority) override {
    job.run();
    jobs_.push_back(&job);
  }
  void arm(Timer& timer, Instant deadline) override { timers_.arm(timer, deadline); }
  void disarm(Timer& timer) override { timers_.disarm(timer); }
  Instant now() override { return now_; }
  WallTime wall() override { return WallTime(now_.time_since_epoch()); }

  // Until nothing is left to do now; time stands still.
  void run_ready() {
    while (!ready_.empty() || !jobs_.empty()) {
      if (!ready_.empty()) {
        const std::coroutine_handle<> handle = ready_.front();
        ready_.pop_front();
        handle.resume();
      } else {
        Job* job = jobs_.front();
        jobs_.pop_front();
        job->finish();
      }
    }
  }
  // Until nothing is left to do at all.
  void run() {
    run_ready();
    while (timers_.next_deadline() != Instant::max()) {
      now_ = std::max(now_, timers_.next_deadline());
      while (Timer* timer = timers_.take_due(now_)) timer->fire();
      run_ready();
    }
  }

 private:
  std::deque<std::coroutine_handle<>> ready_;
  std::deque<Job*> jobs_;
  TimerHeap timers_;
  Instant now_{};
};

// co_await Yield{loop}: to the back of the queue.
struct Yield {
  Executor& executor;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) { executor.post(handle); }
  void await_resume() {}
};

}  // namespace zerofs
