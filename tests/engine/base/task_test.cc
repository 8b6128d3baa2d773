// Goal: a Task yields its value or its error to whoever awaits it, errors pass through ancestors
// without resuming them, and loops over children that are done at once use no stack.
#include "engine/base/task.h"

#include <doctest/doctest.h>

#include <deque>
#include <string>

#include "engine/base/sync.h"

namespace zerofs {
namespace {

// An executor that only resumes what was posted.
struct Loop final : Executor {
  void post(std::coroutine_handle<> handle) override { ready.push_back(handle); }
  void submit(Job& job, Priority) override {
    job.run();
    jobs.push_back(&job);
  }
  void arm(Timer&, Instant) override { FAIL("no timers here"); }
  void disarm(Timer&) override {}
  void run() {
    while (!ready.empty() || !jobs.empty()) {
      if (!ready.empty()) {
        const auto handle = ready.front();
        ready.pop_front();
        handle.resume();
      } else {
        Job* job = jobs.front();
        jobs.pop_front();
        job->finish();
      }
    }
  }
  std::deque<std::coroutine_handle<>> ready;
  std::deque<Job*> jobs;
};

struct Yield {
  Loop& loop;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) { loop.post(handle); }
  void await_resume() {}
};

Task<int> number(Loop* loop, int value) {
  if (loop != nullptr) co_await Yield{*loop};
  co_return value;
}
Task<int> failing(Loop* loop) {
  if (loop != nullptr) co_await Yield{*loop};
  co_return corrupt("broken", 7);
}
Task<int> middle(Loop* loop, bool& resumed) {
  const int value = co_await failing(loop);
  resumed = true;
  co_return value;
}
Task<> outer(Loop* loop, bool& resumed, std::optional<Error>& seen) {
  const Result<int> result = co_await as_result(middle(loop, resumed));
  if (!result) seen = result.error();
  co_return {};
}
Task<> count_up(u64 times, u64& sum) {
  for (u64 i = 0; i < times; ++i) sum += static_cast<u64>(co_await number(nullptr, 1));
  co_return {};
}
Task<> wait_for(Event& event, bool& ready, int& order, int& at) {
  while (!ready) co_await event.wait();
  at = ++order;
  co_return {};
}

TEST_CASE("an error passes through ancestors without resuming them") {
  for (const bool suspends : {false, true}) {
    Loop loop;
    Gate gate(loop);
    bool resumed = false;
    std::optional<Error> seen;
    gate.spawn(outer(suspends ? &loop : nullptr, resumed, seen));
    loop.run();
    REQUIRE(seen.has_value());
    CHECK(seen->code() == Code::corrupt);
    CHECK(seen->id() == 7);
    CHECK_FALSE(resumed);
    CHECK(gate.count() == 0);
  }
}

TEST_CASE("a million children that are done at once use no stack") {
  Loop loop;
  Gate gate(loop);
  u64 sum = 0;
  gate.spawn(count_up(1'000'000, sum));
  CHECK(sum == 1'000'000);
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
  event.wake_all();
  loop.run();
  CHECK(order == 0);  // woken too early: they looked again and went on waiting
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
Task<> offloading(Loop& loop, std::string& out) {
  auto work = [] { return std::string("done on a worker"); };
  out = co_await offload(loop, Priority::bulk, std::move(work));
  co_return {};
}

TEST_CASE("a gate closes when everything in it has ended; offload brings values back") {
  Loop loop;
  Gate work(loop);
  Gate outside(loop);
  std::string out;
  bool closed = false;
  work.spawn(offloading(loop, out));
  outside.spawn(close_gate(work, closed));
  CHECK_FALSE(closed);
  loop.run();
  CHECK(closed);
  CHECK(out == "done on a worker");
}

}  // namespace
}  // namespace zerofs
