// Goal: timers come out by deadline, ties in the order of arming, whatever was moved or disarmed,
// and one that re-arms itself in the past does not starve the others.
// Method: random operations against an ordered set; then the two corner cases by hand.
#include "engine/base/timer_heap.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

namespace zerofs {
namespace {

struct Plain final : Timer {
  void fire() override {}
};

Instant at(i64 nanoseconds) {
  return Instant(Duration(nanoseconds));
}

TEST_CASE("the heap equals an ordered set") {
  for (u32 seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    std::vector<Plain> timers(64);
    TimerHeap heap;
    std::set<std::pair<i64, u64>> model;  // deadline, order
    std::map<u64, Timer*> by_order;
    std::map<Timer*, std::pair<i64, u64>> armed;
    u64 next_order = 0;
    i64 now = 0;
    const auto forget = [&](Timer* timer) {
      const auto found = armed.find(timer);
      if (found == armed.end()) return;
      model.erase(found->second);
      armed.erase(found);
    };
    for (u32 step = 0; step < 5000; ++step) {
      Timer& timer = timers[random() % timers.size()];
      switch (random() % 8) {
        case 0: {
          now += random() % 20;
          while (Timer* due = heap.take_due(at(now))) {
            REQUIRE(!model.empty());
            CHECK(due == by_order[model.begin()->second]);
            CHECK(model.begin()->first <= now);
            CHECK(due->slot == 0);
            forget(due);
          }
          CHECK((model.empty() || model.begin()->first > now));
          break;
        }
        case 1:
        case 2:
          heap.disarm(timer);
          forget(&timer);
          break;
        default: {
          const i64 deadline = now + 1 + random() % 50;  // few values, so that there are ties
          heap.arm(timer, at(deadline));
          forget(&timer);
          by_order[next_order] = &timer;
          armed[&timer] = {deadline, next_order};
          model.insert({deadline, next_order++});
        }
      }
      CHECK(heap.next_deadline() == (model.empty() ? Instant::max() : at(model.begin()->first)));
    }
  }
}

TEST_CASE("a timer that re-arms itself in the past fires once per look and starves nobody") {
  TimerHeap heap;
  Plain eager;
  Plain patient;
  heap.arm(eager, at(10));
  heap.arm(patient, at(20));
  CHECK(heap.take_due(at(30)) == &eager);
  heap.arm(eager, at(10));
  CHECK(heap.take_due(at(30)) == &patient);
  CHECK(heap.take_due(at(30)) == nullptr);
  CHECK(heap.take_due(at(31)) == &eager);
  CHECK(heap.next_deadline() == Instant::max());
}

TEST_CASE("a heap that ends leaves its timers idle") {
  Plain timer;
  {
    TimerHeap heap;
    heap.arm(timer, at(1));
    CHECK(timer.slot != 0);
  }
  CHECK(timer.slot == 0);
}

}  // namespace
}  // namespace zerofs
