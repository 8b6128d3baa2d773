// Goal: the reactor fires timers in order, finishes jobs of other threads on its own, resumes what
// was posted, and is woken from its sleep by each of them.
#include "engine/base/reactor.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "engine/base/io.h"

namespace zerofs {
namespace {

struct World {
  World() : pool({.threads = 2}) {
    Result<std::unique_ptr<Reactor>> made = Reactor::create(pool, {});
    REQUIRE(made.has_value());
    reactor = std::move(*made);
  }
  WorkerPool pool;
  std::unique_ptr<Reactor> reactor;
};

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

TEST_CASE("timers fire in the order of their deadlines") {
  World world;
  std::vector<int> order;
  REQUIRE(run_until_done(*world.reactor, all_sleepers(*world.reactor, order)).has_value());
  CHECK(order == std::vector<int>{1, 2, 3});
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

Task<> ping_pong(Reactor& reactor, int fd, u64 rounds, u64& done) {
  for (u64 i = 0; i < rounds; ++i) {
    u64 value = i;
    const i32 sent = co_await ring_op(reactor, [&](io_uring_sqe* sqe) {
      io_uring_prep_send(sqe, fd, &value, sizeof value, 0);
    });
    REQUIRE(sent == sizeof value);
    const i32 received = co_await ring_op(reactor, [&](io_uring_sqe* sqe) {
      io_uring_prep_recv(sqe, fd, &value, sizeof value, MSG_WAITALL);
    });
    REQUIRE(received == sizeof value);
    CHECK(value == i + 1);
    ++done;
  }
  co_return {};
}

TEST_CASE("ring operations, with a peer on another thread") {
  World world;
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
  REQUIRE(run_until_done(*world.reactor, ping_pong(*world.reactor, fds[0], 2000, done)).has_value());
  CHECK(done == 2000);
  close(fds[0]);
  peer.join();
  close(fds[1]);
}

}  // namespace
}  // namespace zerofs
