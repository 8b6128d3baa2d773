// Goal: the judge polls where polling serves more, and nowhere else.
// Method: a client that needs a fixed time per request, with and without polling.
#include "engine/base/poll_judge.h"

#include <doctest/doctest.h>

namespace zerofs {
namespace {

// The part of one second in which the judge polls.
double polled(Duration with, Duration without) {
  PollJudge judge;
  Instant now(Duration(1s));
  Duration polling(0);
  const Instant end = now + 1s;
  while (now < end) {
    const bool poll = judge.should_poll(now);
    const Duration step = poll ? with : without;
    if (poll) polling += step;
    now += step;
    judge.served(1);
  }
  return static_cast<double>(polling.count()) / 1e9;
}

TEST_CASE("where waking up is dear, it polls") {
  CHECK(polled(20us, 50us) > 0.95);
}
TEST_CASE("where polling is dear, it sleeps") {
  CHECK(polled(20us, 14us) < 0.05);
}
TEST_CASE("a client with its own pace is not polled for") {
  CHECK(polled(10us, 10us) < 0.05);
  CHECK(polled(5ms, 5ms) < 0.05);
}

TEST_CASE("a client that changes is judged again") {
  PollJudge judge;
  Instant now(Duration(1s));
  const auto run = [&](Duration with, Duration without) {
    const Instant end = now + 500ms;
    bool poll = false;
    while (now < end) {
      poll = judge.should_poll(now);
      now += poll ? with : without;
      judge.served(1);
    }
    return poll;
  };
  CHECK(run(20us, 50us));
  CHECK(!run(10us, 10us));
  CHECK(run(20us, 50us));
}

}  // namespace
}  // namespace zerofs
