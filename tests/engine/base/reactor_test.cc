// Goal: the reactor fires timers in order, finishes jobs of other threads on its own thread,
// resumes what was posted, is woken from its sleep by each of them and starves none, and costs
// what its counters promise.
// Method: real kernel, real threads. Lost wake-ups would hang; meson's time limit ends those.
#include "engine/base/reactor.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <thread>

#include "engine/base/io.h"

namespace zerofs {
namespace {

struct World {
  explicit World(Reactor::Options options = {}) : pool({.threads = 2}) {
    Result<std::unique_ptr<Reactor>> made = Reactor::create(pool, options);
    REQUIRE(made.has_value());
    reactor = std::move(*made);
  }
  WorkerPool pool;
  std::unique_ptr<Reactor> reactor;
};

// --- timers

Task<> sleep_and_note(Reactor& reactor, Duration duration, int id, std::vector<int>& order) {
  co_await sleep_until(reactor, reactor.now() + duration);
  order.push_back(id);
  co_return {};
}
Task<> all_sleepers(Reactor& reactor, std::vector<int>& order) {
  Gate gate(reactor);
  gate.spawn(sleep_and_note(reactor, 30ms, 3, order));
  gate.spawn(sleep_and_note(reactor, 10ms, 1, order));
  gate.spawn(sleep_and_note(reactor, 20ms, 2, order));
  co_await gate.close();
  co_return {};
}

TEST_CASE("timers fire in the order of their deadlines, never early, and sleep in between") {
  World world;
  Reactor& reactor = *world.reactor;
  std::vector<int> order;
  const Instant start = reactor.now();
  REQUIRE(run_until_done(reactor, all_sleepers(reactor, order)).has_value());
  CHECK(reactor.now() - start >= 30ms);
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(reactor.counters().turns <= 20);  // it slept, it did not look again and again
}

struct Note final : Timer {
  explicit Note(std::vector<u64>& out, u64 id) : out(out), id(id) {}
  void fire() override { out.push_back(id); }
  std::vector<u64>& out;
  u64 id;
};
Task<> arm_many(Reactor& reactor, std::vector<std::unique_ptr<Note>>& timers) {
  const Instant base = reactor.now();
  for (u64 i = 0; i < timers.size(); ++i) {
    reactor.arm(*timers[i], base + Duration(1'000'000 + static_cast<i64>(i * 7919 % 1000) * 1000));
  }
  for (u64 i = 0; i < timers.size(); i += 3) reactor.disarm(*timers[i]);
  for (u64 i = 1; i < timers.size(); i += 3) {
    reactor.arm(*timers[i], base + Duration(5'000'000 + static_cast<i64>(i) * 10));  // moved
  }
  co_await sleep_until(reactor, base + 40ms);
  co_return {};
}

TEST_CASE("a thousand timers armed, moved and disarmed fire as their heap says") {
  World world;
  std::vector<u64> fired;
  std::vector<std::unique_ptr<Note>> timers;
  for (u64 i = 0; i < 1000; ++i) timers.push_back(std::make_unique<Note>(fired, i));
  REQUIRE(run_until_done(*world.reactor, arm_many(*world.reactor, timers)).has_value());
  std::vector<u64> wanted;
  for (u64 i = 2; i < 1000; i += 3) wanted.push_back(i);
  std::ranges::sort(wanted, {}, [](u64 i) { return i * 7919 % 1000; });
  for (u64 i = 1; i < 1000; i += 3) wanted.push_back(i);
  CHECK(fired == wanted);
}

TEST_CASE("a reactor that ends leaves armed timers idle") {
  std::vector<u64> fired;
  Note note(fired, 1);
  World world;
  world.reactor->arm(note, world.reactor->now() + 1000s);
  world.reactor.reset();
  CHECK(note.slot == 0);
}

// --- posted coroutines

struct Yield {
  Reactor& reactor;
  bool await_ready() { return false; }
  void await_suspend(std::coroutine_handle<> handle) { reactor.post(handle); }
  void await_resume() {}
};
Task<> spin_until_set(Reactor& reactor, const bool& stop, u64& rounds) {
  while (!stop) {
    co_await Yield{reactor};
    ++rounds;
  }
  co_return {};
}
Task<> beside_a_spinner(Reactor& reactor, u64& rounds) {
  Gate gate(reactor);
  bool stop = false;
  gate.spawn(spin_until_set(reactor, stop, rounds));
  const i32 answer = co_await ring_op(reactor, [](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
  CHECK(answer == 0);
  co_await sleep_until(reactor, reactor.now() + 1ms);
  auto work = [] { return 1; };
  CHECK(co_await offload(reactor, Priority::bulk, work) == 1);
  stop = true;
  co_await gate.close();
  co_return {};
}

TEST_CASE("a coroutine that is always ready starves neither ring, nor timers, nor jobs") {
  World world;
  u64 rounds = 0;
  REQUIRE(run_until_done(*world.reactor, beside_a_spinner(*world.reactor, rounds)).has_value());
  CHECK(rounds > 0);
  // With nothing to submit and nothing new in the ring, a turn makes no system call.
  CHECK(world.reactor->counters().system_calls < world.reactor->counters().turns / 2);
}

// --- jobs and deliveries

Task<> many_offloads(Reactor& reactor, u64 rounds, u64& sum) {
  for (u64 i = 0; i < rounds; ++i) {
    auto work = [i] { return i; };
    sum += co_await offload(reactor, i % 2 == 0 ? Priority::urgent : Priority::bulk, work);
  }
  co_return {};
}
Task<> offload_in_parallel(Reactor& reactor, u64& sum) {
  Gate gate(reactor);
  for (int i = 0; i < 16; ++i) gate.spawn(many_offloads(reactor, 500, sum));
  co_await gate.close();
  co_return {};
}

TEST_CASE("jobs come back from the workers, however the reactor sleeps") {
  World world;
  u64 sum = 0;
  REQUIRE(run_until_done(*world.reactor, offload_in_parallel(*world.reactor, sum)).has_value());
  CHECK(sum == 16 * 500 * 499 / 2);
}

struct Message final : Job {
  void run() override {}
  void finish() override {
    CHECK(std::this_thread::get_id() == *thread);
    order->push_back(id);
    if (order->size() == wanted) reactor->stop();
  }
  Reactor* reactor = nullptr;
  std::vector<u64>* order = nullptr;
  const std::thread::id* thread = nullptr;
  u64 wanted = 0;
  u64 id = 0;
};

TEST_CASE("what other threads deliver arrives, each thread's in its order, with no wake-up lost") {
  constexpr u64 kThreads = 3;
  constexpr u64 kMessages = 3000;
  World world;
  const std::thread::id here = std::this_thread::get_id();
  std::vector<u64> order;
  std::vector<std::deque<Message>> messages(kThreads);
  for (u64 t = 0; t < kThreads; ++t) {
    for (u64 i = 0; i < kMessages; ++i) {
      Message& message = messages[t].emplace_back();
      message.reactor = world.reactor.get();
      message.order = &order;
      message.thread = &here;
      message.wanted = kThreads * kMessages;
      message.id = t * kMessages + i;
    }
  }
  std::vector<std::jthread> threads;
  for (u64 t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (u64 i = 0; i < kMessages; ++i) {
        world.reactor->deliver(messages[t][i]);
        // Now and then long enough for the reactor to fall asleep: both sides of the race.
        if (i % 16 == t) std::this_thread::sleep_for(std::chrono::microseconds(i % 64));
      }
    });
  }
  world.reactor->run();
  CHECK(order.size() == kThreads * kMessages);
  std::vector<u64> next(kThreads);
  for (const u64 id : order) CHECK(id % kMessages == next[id / kMessages]++);
  CHECK(world.reactor->counters().sleeps > 0);
}

TEST_CASE("the reactor's own thread may deliver, before and while it runs") {
  struct Again final : Job {
    explicit Again(Reactor& reactor) : reactor(reactor) {}
    void run() override {}
    void finish() override { ++count < 1000 ? reactor.deliver(*this) : reactor.stop(); }
    Reactor& reactor;
    u64 count = 0;
  };
  World world;
  Again again(*world.reactor);
  world.reactor->deliver(again);
  world.reactor->run();
  CHECK(again.count == 1000);
}

// --- the ring

Task<> ping_pong(Reactor& reactor, int fd, u64 rounds, u64& done) {
  for (u64 i = 0; i < rounds; ++i) {
    u64 value = i;
    const i32 sent = co_await ring_op(
        reactor, [&](io_uring_sqe* sqe) { io_uring_prep_send(sqe, fd, &value, sizeof value, 0); });
    REQUIRE(sent == sizeof value);
    const i32 received = co_await ring_op(reactor, [&](io_uring_sqe* sqe) {
      io_uring_prep_recv(sqe, fd, &value, sizeof value, MSG_WAITALL);
    });
    reactor.count_requests(1);
    REQUIRE(received == sizeof value);
    CHECK(value == i + 1);
    ++done;
  }
  co_return {};
}

TEST_CASE("ring operations, with a peer on another thread, with and without spinning") {
  for (const Duration spin : {Duration(0), Duration(30us)}) {
    World world({.spin = spin});
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    std::thread peer([fd = fds[1]] {
      u64 value;
      while (recv(fd, &value, sizeof value, MSG_WAITALL) == sizeof value) {
        ++value;
        if (send(fd, &value, sizeof value, 0) != sizeof value) break;
      }
    });
    u64 done = 0;
    Reactor& reactor = *world.reactor;
    REQUIRE(run_until_done(reactor, ping_pong(reactor, fds[0], 2000, done)).has_value());
    CHECK(done == 2000);
    close(fds[0]);
    peer.join();
    close(fds[1]);
  }
}

struct Nop final : IoOp {
  void complete(i32 result, u32) override {
    CHECK(result == 0);
    if (++*count == wanted) reactor->stop();
  }
  Reactor* reactor = nullptr;
  u64* count = nullptr;
  u64 wanted = 0;
};

TEST_CASE("more operations than the ring has entries, prepared before it runs") {
  World world({.submission_entries = 8, .completion_entries = 64});
  u64 count = 0;
  std::vector<Nop> nops(5000);
  for (Nop& nop : nops) {
    nop.reactor = world.reactor.get();
    nop.count = &count;
    nop.wanted = nops.size();
    io_uring_sqe* sqe = world.reactor->prepare();
    io_uring_prep_nop(sqe);
    world.reactor->submit_op(sqe, nop);
  }
  world.reactor->run();
  CHECK(count == nops.size());
  CHECK(world.reactor->counters().completions == nops.size());
}

struct Receive final : IoOp {
  explicit Receive(Reactor& reactor) : reactor(reactor) {}
  void complete(i32 value, u32) override {
    result = value;
    reactor.stop();
  }
  Reactor& reactor;
  i32 result = 0;
};

TEST_CASE("a cancelled operation completes with ECANCELED") {
  World world;
  int fds[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  Receive receive(*world.reactor);
  std::byte bytes[8];
  io_uring_sqe* sqe = world.reactor->prepare();
  io_uring_prep_recv(sqe, fds[0], bytes, sizeof bytes, 0);
  world.reactor->submit_op(sqe, receive);
  world.reactor->cancel(receive);
  world.reactor->run();
  CHECK(receive.result == -ECANCELED);
  close(fds[0]);
  close(fds[1]);
}

TEST_CASE("an operation that is refused at once does not hold back those behind it") {
  World world;
  u64 count = 0;
  Receive refused(*world.reactor);
  Nop nop;
  nop.reactor = world.reactor.get();
  nop.count = &count;
  nop.wanted = 1;
  std::byte byte;
  io_uring_sqe* sqe = world.reactor->prepare();
  io_uring_prep_recv(sqe, 0, &byte, 1, 0);
  sqe->ioprio = 0xffff;  // means nothing
  world.reactor->submit_op(sqe, refused);
  sqe = world.reactor->prepare();
  io_uring_prep_nop(sqe);
  world.reactor->submit_op(sqe, nop);
  world.reactor->run();
  CHECK(refused.result == -EINVAL);
  CHECK(count == 1);
  CHECK(world.reactor->counters().turns == 1);
}

// --- the end of a turn

struct Hook final : TurnHook {
  explicit Hook(Reactor& reactor) : reactor(reactor) {}
  void end_of_turn() override {
    ++calls;
    if (calls < 10) {
      reactor.at_end_of_turn(*this);  // for the next turn
      reactor.at_end_of_turn(*this);  // queued already
    } else {
      io_uring_sqe* sqe = reactor.prepare();
      io_uring_prep_nop(sqe);
      reactor.submit_op(sqe, *nop);
    }
  }
  Reactor& reactor;
  IoOp* nop = nullptr;
  u64 calls = 0;
};

TEST_CASE("hooks run once per turn, and what they prepare is submitted") {
  World world;
  u64 count = 0;
  Nop nop;
  nop.reactor = world.reactor.get();
  nop.count = &count;
  nop.wanted = 1;
  Hook hook(*world.reactor);
  hook.nop = &nop;
  world.reactor->at_end_of_turn(hook);
  world.reactor->run();
  CHECK(hook.calls == 10);
  CHECK(count == 1);
  CHECK(world.reactor->counters().turns == 11);
}

// --- life

TEST_CASE("made on one thread, run on another, again and again") {
  World world;
  std::thread([&] {
    for (int i = 0; i < 3; ++i) {
      std::vector<int> order;
      REQUIRE(run_until_done(*world.reactor, sleep_and_note(*world.reactor, 1ms, i, order)));
      CHECK(order.size() == 1);
    }
  }).join();
}

Task<int> fails_at_once() {
  co_return corrupt("at once", 3);
}

TEST_CASE("run_until_done hands back values and errors, also of tasks that never wait") {
  World world;
  const Result<int> result = run_until_done(*world.reactor, fails_at_once());
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().id() == 3);
}

TEST_CASE("a machine that refuses a ring gets an error, not an abort") {
  WorkerPool pool({.threads = 1});
  rlimit before;
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  const Result<std::unique_ptr<Reactor>> reactor = Reactor::create(pool, {});
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
  REQUIRE_FALSE(reactor.has_value());
  CHECK(reactor.error().code() == Code::denied);
  CHECK(reactor.error().id() == EMFILE);
}

}  // namespace
}  // namespace zerofs
