// Goal: waiting works as sync.h says: events wake later and in order, gates end after what they
// hold, sleeps and time-outs come when they are due, offload brings back what the worker returned.
// Method: in virtual time, on one thread, so that every order is exact.
#include "engine/base/sync.h"

#include <doctest/doctest.h>

#include <string>

#include "tests/engine/base/loop.h"

namespace zerofs {
namespace {

Task<> wait_for(Event& event, bool& ready, int& order, int& at) {
  while (!ready) co_await event.wait();
  at = ++order;
  co_return {};
}

TEST_CASE("an event wakes those that wait, in their order, and never inside the call") {
  Loop loop;
  Gate gate(loop);
  Event event(loop);
  bool ready = false;
  int order = 0;
  int first = 0;
  int second = 0;
  gate.spawn(wait_for(event, ready, order, first));
  gate.spawn(wait_for(event, ready, order, second));
  CHECK(event.has_waiters());
  event.wake_all();
  CHECK_FALSE(event.has_waiters());
  loop.run();
  CHECK(order == 0);  // woken too early: they looked again and went on waiting
  CHECK(event.has_waiters());
  ready = true;
  event.wake_all();
  CHECK(order == 0);
  loop.run();
  CHECK(first == 1);
  CHECK(second == 2);
}

Task<> close_gate(Gate& gate, bool& closed) {
  co_await gate.close();
  closed = true;
  co_return {};
}
Task<> yield_and_fail(Loop& loop, int times) {
  for (int i = 0; i < times; ++i) co_await Yield{loop};
  co_return corrupt("dropped by contract");
}

TEST_CASE("a gate closes when everything in it has ended, well or badly") {
  Loop loop;
  Gate work(loop);
  Gate outside(loop);
  bool closed = false;
  for (const int times : {0, 3, 1}) work.spawn(yield_and_fail(loop, times));
  CHECK(work.count() == 2);
  outside.spawn(close_gate(work, closed));
  CHECK(work.closed());
  CHECK_FALSE(closed);
  loop.run();
  CHECK(closed);
  CHECK(work.count() == 0);
}

TEST_CASE("an empty gate closes at once, for everyone who asks") {
  Loop loop;
  Gate work(loop);
  Gate outside(loop);
  bool first = false;
  bool second = false;
  outside.spawn(close_gate(work, first));
  outside.spawn(close_gate(work, second));
  CHECK(first);
  CHECK(second);
}

Task<> sleep_and_note(Loop& loop, Duration until, std::vector<Duration>& woken) {
  co_await sleep_until(loop, Instant(until));
  CHECK(loop.now() >= Instant(until));
  woken.push_back(until);
  co_return {};
}

TEST_CASE("sleepers wake in the order of their deadlines") {
  Loop loop;
  Gate gate(loop);
  std::vector<Duration> woken;
  for (const Duration until : {30ms, 10ms, 20ms, 0ms}) {
    gate.spawn(sleep_and_note(loop, until, woken));
  }
  loop.run_ready();
  CHECK(woken.empty());
  loop.run();
  CHECK(woken == std::vector<Duration>{0ms, 10ms, 20ms, 30ms});
  CHECK(loop.now() == Instant(30ms));
}

Task<> wait_or_time_out(Loop& loop, Event& event, const bool& ready, Instant deadline,
                        bool& timed_out) {
  WakeTimer timer(loop, event);
  timer.arm(deadline);
  while (!ready && loop.now() < deadline) co_await event.wait();
  timed_out = !ready;
  co_return {};
}

TEST_CASE("a wait ends by its event or by its time-out, and the timer goes with it") {
  for (const bool in_time : {false, true}) {
    CAPTURE(in_time);
    Loop loop;
    Gate gate(loop);
    Event event(loop);
    bool ready = false;
    bool timed_out = false;
    gate.spawn(wait_or_time_out(loop, event, ready, Instant(5s), timed_out));
    loop.run_ready();
    if (in_time) {
      ready = true;
      event.wake_all();
    }
    loop.run();
    CHECK(timed_out == !in_time);
    CHECK(loop.now() == Instant(in_time ? 0s : 5s));  // no timer was left behind
    CHECK(gate.count() == 0);
  }
}

Task<> offloading(Loop& loop, std::string& text, bool& ran, Code& code) {
  auto work = [owned = std::make_unique<int>(3)] { return std::string(*owned, 'x'); };
  text = co_await offload(loop, Priority::bulk, std::move(work));

  auto nothing = [&ran] { ran = true; };
  co_await offload(loop, Priority::urgent, nothing);

  auto refuses = []() -> Result<int> { return corrupt("on a worker"); };
  const Result<int> refused = co_await offload(loop, Priority::urgent, refuses);
  code = refused.error().code();
  co_return {};
}

TEST_CASE("offload brings back values, nothing, and errors as values") {
  Loop loop;
  Gate gate(loop);
  std::string text;
  bool ran = false;
  Code code{};
  gate.spawn(offloading(loop, text, ran, code));
  CHECK(text.empty());  // finished later, never inside the call
  loop.run();
  CHECK(text == "xxx");
  CHECK(ran);
  CHECK(code == Code::corrupt);
}

}  // namespace
}  // namespace zerofs
