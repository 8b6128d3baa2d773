// Goal: a turn in steady state allocates nothing, whatever it does: completions, timers, jobs,
// hooks, posted coroutines.
// Method: operator new counts; after a warm-up the count must stand still.
#include <doctest/doctest.h>

#include <cstdlib>
#include <new>

#include "engine/base/reactor.h"

namespace {
thread_local zerofs::u64 allocations = 0;
}  // namespace

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace zerofs {
namespace {

struct Everything final : IoOp, Timer, TurnHook, Job {
  explicit Everything(Reactor& reactor) : reactor(reactor) {}
  void next_round() {
    if (++rounds == kWarmUp) before = allocations;
    if (rounds == kRounds) {
      after = allocations;
      reactor.stop();
      return;
    }
    io_uring_sqe* sqe = reactor.prepare();
    io_uring_prep_nop(sqe);
    reactor.submit_op(sqe, *this);
  }
  void complete(i32, u32) override { reactor.arm(*this, reactor.now()); }
  void fire() override { reactor.at_end_of_turn(*this); }
  void end_of_turn() override { reactor.submit(*this, Priority::urgent); }
  void run() override {}
  void finish() override { reactor.post(std::coroutine_handle<>::from_address(waiting)); }

  static constexpr u64 kWarmUp = 100;
  static constexpr u64 kRounds = 1000;
  Reactor& reactor;
  void* waiting = nullptr;
  u64 rounds = 0;
  u64 before = 0;
  u64 after = 0;
};

struct WaitPosted {
  Everything& everything;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    everything.waiting = handle.address();
    everything.next_round();
  }
  void await_resume() {}
};
Task<> rounds(Everything& everything) {
  while (everything.rounds < Everything::kRounds - 1) co_await WaitPosted{everything};
  everything.next_round();
  co_return {};
}

TEST_CASE("a turn in steady state allocates nothing") {
  WorkerPool pool({.threads = 1});
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create(pool, {});
  REQUIRE(reactor.has_value());
  Everything everything(**reactor);
  Gate gate(**reactor);
  gate.spawn(rounds(everything));
  (*reactor)->run();
  CHECK(gate.count() == 0);
  CHECK(everything.before > 0);
  CHECK(everything.after == everything.before);
}

}  // namespace
}  // namespace zerofs
