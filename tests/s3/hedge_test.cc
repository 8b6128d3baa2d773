// Goal: a GET that hangs is overtaken by a second one, whoever wins writes alone, and hedging stays
// within its budget.
//
// Method: a server that holds back chosen requests until the test lets them go.
#include <doctest/doctest.h>

#include "tests/s3/failing_world.h"

namespace zerofs::s3::test {

using store::Class;

TEST_CASE("hedge: the second try wins, the first is cut off and writes nothing") {
  World world;
  const Buffer body = pattern(100 * kKiB);
  const Buffer other = pattern(100 * kKiB, 2);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    if (seen.number == 1) {
      connection.hang();
      return send_part(seen, connection, other, other.size());
    }
    send_part(seen, connection, body, body.size());
  });
  Config config = config_for(server.endpoint());
  config.hedging.budget = 0.05;
  config.deadlines.first_byte = 5s;
  const auto store = world.start(config);
  Buffer out(100 * kKiB);
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  CHECK(same(out, body));
  Counters counters = store->counters();
  CHECK(counters.hedges == 1);
  CHECK(counters.hedges_won == 1);
  CHECK(counters.requests(Answer::abandoned) == 1);
  CHECK(counters.requests(Answer::ok) == 1);
  CHECK(counters.retries[1] == 0);
  server.open_gate();
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  CHECK(same(out, body));
}

TEST_CASE("hedge: the first may still win, and a failing twin does not matter") {
  World world;
  const Buffer body = pattern(1000);
  ScriptedServer* self = nullptr;
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    if (seen.number == 1) {
      connection.hang();
      return send_part(seen, connection, body, body.size());
    }
    connection.reply_error(503, "SlowDown");
    self->open_gate();
  });
  self = &server;
  Config config = config_for(server.endpoint());
  config.hedging.budget = 0.05;
  config.deadlines.first_byte = 5s;
  const auto store = world.start(config);
  Buffer out(1000);
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  CHECK(same(out, body));
  const Counters counters = store->counters();
  CHECK(counters.hedges == 1);
  CHECK(counters.hedges_won == 0);
  CHECK(server.seen().size() == 2);
}

TEST_CASE("hedge: an answer that has begun is not asked for again") {
  World world;
  const Buffer body = pattern(1000);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    send_part(seen, connection, body, 500);
    std::this_thread::sleep_for(600ms);  // a slow link, longer than the wait before a hedge
    connection.send(std::string(text_of(body.bytes().subspan(500))));
  });
  Config config = config_for(server.endpoint());
  config.hedging.budget = 1;
  config.deadlines.stall = 5s;
  const auto store = world.start(config);
  Buffer out(1000);
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  CHECK(same(out, body));
  CHECK(store->counters().hedges == 0);
  CHECK(server.seen().size() == 1);
}

TEST_CASE("hedge: an empty budget sends nothing twice, and PUTs are never hedged") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.number == 1) return connection.hang();
    connection.reply(200, "ETag: \"t\"\r\n", "");
  });
  Config config = config_for(server.endpoint());
  config.hedging.budget = 0.05;
  const auto store = world.start(config);
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));  // by its deadline
  CHECK(store->counters().hedges == 0);

  const Buffer body = pattern(10);
  ScriptedServer slow([&](const Seen& seen, Connection& connection) {
    if (seen.number <= 2) return connection.hang();
    send_part(seen, connection, body, 10);
  });
  config = config_for(slow.endpoint());
  config.hedging.budget = 0;
  const auto none = world.start(config);
  Buffer out(10);
  REQUIRE(world.run(none->read("x", 0, out, Class::foreground)));
  CHECK(none->counters().hedges == 0);
  CHECK(slow.seen().size() == 3);
}

}  // namespace zerofs::s3::test
