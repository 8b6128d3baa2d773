// Goal: a Task yields its value or its error to whoever awaits it, errors pass through ancestors
// without resuming them and without leaking what these hold, and loops over children that are done
// at once use no stack.
// Method: each case with children that are done at once and with children that suspend first. The
// stack is compared in a child at the first and the last round of a loop.
#include "engine/base/task.h"

#include <doctest/doctest.h>

#include <memory>

#include "engine/base/sync.h"
#include "tests/engine/base/loop.h"

namespace zerofs {
namespace {

Task<int> number(Loop* loop, int value) {
  if (loop != nullptr) co_await Yield{*loop};
  co_return value;
}
Task<int> failing(Loop* loop) {
  if (loop != nullptr) co_await Yield{*loop};
  co_return corrupt("broken", 7);
}

// Counts those alive.
struct Held {
  explicit Held(int& alive) : alive(alive) { ++alive; }
  Held(const Held&) = delete;
  ~Held() { --alive; }
  int& alive;
};

Task<int> chain(Loop* loop, int depth, int& alive, bool& resumed) {
  const Held held(alive);
  const int value =
      depth == 0 ? co_await failing(loop) : co_await chain(loop, depth - 1, alive, resumed);
  resumed = true;
  co_return value;
}
Task<> look_at_chain(Loop* loop, int depth, int& alive, bool& resumed, std::optional<Error>& seen) {
  const Result<int> result = co_await as_result(chain(loop, depth, alive, resumed));
  if (!result) seen = result.error();
  co_return {};
}

TEST_CASE("an error passes through ancestors without resuming them") {
  for (const bool suspends : {false, true}) {
    for (const int depth : {0, 1, 200}) {
      CAPTURE(suspends);
      CAPTURE(depth);
      Loop loop;
      Gate gate(loop);
      int alive = 0;
      bool resumed = false;
      std::optional<Error> seen;
      gate.spawn(look_at_chain(suspends ? &loop : nullptr, depth, alive, resumed, seen));
      CHECK(alive == (suspends ? depth + 1 : 0));
      loop.run();
      REQUIRE(seen.has_value());
      CHECK(seen->code() == Code::corrupt);
      CHECK(seen->id() == 7);
      CHECK_FALSE(resumed);
      CHECK(alive == 0);
      CHECK(gate.count() == 0);
    }
  }
}

Task<std::unique_ptr<int>> move_only(Loop* loop) {
  auto value = std::make_unique<int>(co_await number(loop, 5));
  co_return std::move(value);
}
Result<int> checked(int value) {
  if (value < 0) return invalid("negative");
  return value;
}
Task<int> through_results(Loop* loop, int value) {
  const int awaited = co_await number(loop, value);
  const int same = co_await checked(awaited);
  co_return checked(same - 1);
}
Task<> values(Loop* loop, bool& done) {
  const std::unique_ptr<int> five = co_await move_only(loop);
  CHECK(*five == 5);
  CHECK(co_await through_results(loop, 3) == 2);
  const Result<int> early = co_await as_result(through_results(loop, -1));
  CHECK_FALSE(early.has_value());
  const Result<int> late = co_await as_result(through_results(loop, 0));
  CHECK_FALSE(late.has_value());
  const Result<std::unique_ptr<int>> looked = co_await as_result(move_only(loop));
  REQUIRE(looked.has_value());
  CHECK(**looked == 5);
  done = true;
  co_return {};
}

TEST_CASE("values, Results and move-only types come through") {
  for (const bool suspends : {false, true}) {
    Loop loop;
    Gate gate(loop);
    bool done = false;
    gate.spawn(values(suspends ? &loop : nullptr, done));
    loop.run();
    CHECK(done);
  }
}

// How deep the stack is, in bytes below an arbitrary point; the frame address is the real stack's
// also under ASan's fake stack.
struct Depth {
  std::uintptr_t first = 0;
  std::uintptr_t last = 0;
  void look() {
    const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    if (first == 0) first = here;
    last = here;
  }
};
constexpr u64 kRounds = 1'000'000;

Task<int> child_at_once(Depth& depth, bool fails) {
  depth.look();
  if (fails) co_return corrupt("broken");
  co_return 1;
}
Task<> loop_of_children(Depth& depth, Depth& depth_of_failing, u64& sum) {
  for (u64 i = 0; i < kRounds; ++i) {
    sum += static_cast<u64>(co_await child_at_once(depth, false));
    const Result<int> failed = co_await as_result(child_at_once(depth_of_failing, true));
    sum += failed ? 0 : 1;
    sum += static_cast<u64>(co_await checked(1));
  }
  co_return {};
}

TEST_CASE("a million children that are done at once use no stack") {
  Loop loop;
  Gate gate(loop);
  Depth depth;
  Depth depth_of_failing;
  u64 sum = 0;
  gate.spawn(loop_of_children(depth, depth_of_failing, sum));
  CHECK(sum == 3 * kRounds);
  CHECK(depth.first == depth.last);
  CHECK(depth_of_failing.first == depth_of_failing.last);
}

Task<> loop_of_waits(Loop& loop, Depth& depth, u64& rounds) {
  for (; rounds < 10'000; ++rounds) {
    depth.look();
    static_cast<void>(co_await number(&loop, 1));
    static_cast<void>(co_await as_result(failing(&loop)));
  }
  co_return {};
}

TEST_CASE("children that suspend use no stack either") {
  Loop loop;
  Gate gate(loop);
  u64 rounds = 0;
  Depth depth;
  gate.spawn(loop_of_waits(loop, depth, rounds));
  depth.first = 0;  // the first round ran on spawn()'s stack, the others on the loop's
  loop.run();
  CHECK(rounds == 10'000);
  CHECK(depth.first == depth.last);
}

TEST_CASE("a task that nobody starts does nothing and frees what it took") {
  int alive = 0;
  bool resumed = false;
  {
    const Task<int> never = chain(nullptr, 3, alive, resumed);
  }
  CHECK(alive == 0);
}

}  // namespace
}  // namespace zerofs
