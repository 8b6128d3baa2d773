// Armed timers, soonest first: a binary heap in which each timer knows its place, so that arming,
// moving and disarming cost O(log n) and no allocation once the heap has grown.
//
// A timer never fires twice in one look at the clock, and none is starved by another that keeps
// re-arming itself in the past: what is armed for a time that was already served counts as armed
// for the moment after it.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include "engine/base/runtime.h"

namespace zerofs {

class TimerHeap {
 public:
  TimerHeap() = default;
  TimerHeap(const TimerHeap&) = delete;
  // Timers that are still armed become idle.
  ~TimerHeap() {
    for (const Item& item : heap_) item.timer->slot = 0;
  }

  // Moves the timer when it is armed.
  void arm(Timer& timer, Instant deadline) {
    disarm(timer);
    timer.deadline = deadline;
    heap_.push_back({std::max(deadline, floor_), next_order_++, &timer});
    up(heap_.size() - 1);
  }

  void disarm(Timer& timer) {
    if (timer.slot == 0) return;
    const std::size_t at = timer.slot - 1;
    INVARIANT(at < heap_.size() && heap_[at].timer == &timer);
    timer.slot = 0;
    const Item last = heap_.back();
    heap_.pop_back();
    if (at == heap_.size()) return;
    place(at, last);
    up(at);
    down(last.timer->slot - 1);
  }

  // Instant::max() when nothing is armed.
  Instant next_deadline() const { return heap_.empty() ? Instant::max() : heap_.front().deadline; }

  // The soonest timer that is due, idle now; null when there is none. Equal deadlines come in the
  // order of arming. Called until null with the same `now`, it yields every due timer once.
  Timer* take_due(Instant now) {
    if (heap_.empty() || heap_.front().deadline > now) return nullptr;
    floor_ = std::max(floor_, now + Duration(1));
    Timer* timer = heap_.front().timer;
    disarm(*timer);
    return timer;
  }

 private:
  struct Item {
    Instant deadline;
    u64 order;
    Timer* timer;
    bool operator<(const Item& other) const {
      return std::tie(deadline, order) < std::tie(other.deadline, other.order);
    }
  };

  // Timer::slot is the index + 1.
  void place(std::size_t at, const Item& item) {
    heap_[at] = item;
    item.timer->slot = at + 1;
  }
  void up(std::size_t at) {
    const Item item = heap_[at];
    while (at != 0 && item < heap_[(at - 1) / 2]) {
      place(at, heap_[(at - 1) / 2]);
      at = (at - 1) / 2;
    }
    place(at, item);
  }
  void down(std::size_t at) {
    const Item item = heap_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1] < heap_[child]) ++child;
      if (!(heap_[child] < item)) break;
      place(at, heap_[child]);
      at = child;
    }
    place(at, item);
  }

  std::vector<Item> heap_;
  u64 next_order_ = 0;
  Instant floor_ = Instant::min();  // after the last moment that was served
};

}  // namespace zerofs
