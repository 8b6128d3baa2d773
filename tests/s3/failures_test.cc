// Goal: whatever a server or a network does to one request, the caller learns the truth or `retry`,
// in bounded time, with as few requests as possible; and nothing is taken for a verdict that is
// not.
//
// Method: one scripted misbehaviour per case, on real sockets, with short deadlines.
#include <doctest/doctest.h>

#include "s3/hash.h"
#include "tests/s3/failing_world.h"

namespace zerofs::s3::test {

using store::Class;

namespace {

constexpr const char* kTag = "ETag: \"tag\"\r\n";

}  // namespace

TEST_CASE("failures: a PUT is repeated byte for byte after 500, 503, a reset and a lost reply") {
  World world;
  for (const u64 bytes : {u64{4096}, u64{300000}}) {
    const Buffer body = pattern(bytes);
    ScriptedServer server([&](const Seen& seen, Connection& connection) {
      switch (seen.number) {
        case 1: return connection.reply_error(500, "InternalError");
        case 2: return connection.reply_error(503, "SlowDown");
        case 3: return connection.reset();
        case 4: return connection.close();
        default: return connection.reply(200, kTag, "");
      }
    });
    const auto store = world.start(config_for(server.endpoint()));
    REQUIRE(world.run(store->create("x", body, Class::log)));
    const std::vector<Seen> seen = server.seen();
    // A connection that ends while it is idle is nobody's failure; libcurl takes a new one itself.
    REQUIRE(seen.size() >= 5);
    for (const Seen& request : seen) {
      CHECK(request.method == "PUT");
      CHECK(request.path == "/b/p/x");
      CHECK(request.header("if-none-match") == "*");
      CHECK(request.header("expect") == "");
      CHECK(request.body == text_of(body));
      CHECK(request.header("x-amz-content-sha256") == hex(sha256(body)));
      CHECK(request.header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=KEY/"));
    }
    const Counters counters = store->counters();
    CHECK(counters.requests(Answer::failed) == 1);
    CHECK(counters.requests(Answer::slow_down) == 1);
    CHECK(counters.requests(Answer::none) >= 1);
    CHECK(counters.requests(Answer::ok) == 1);
    CHECK(counters.retries[0] >= 3);
    CHECK(store->state().reachable);
  }
}

TEST_CASE("failures: 412 is the caller's to look at, also after a lost reply") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.number == 1) return connection.close();  // applied, and nobody was told
    connection.reply_error(412, "PreconditionFailed");
  });
  const auto store = world.start(config_for(server.endpoint()));
  const Buffer body = pattern(100);
  CHECK(code_of(world.run(store->create("x", body, Class::log))) == Code::precondition);
}

TEST_CASE("failures: 409 is no verdict and is not repeated for ever") {
  World world;
  ScriptedServer server([](const Seen&, Connection& connection) {
    connection.reply_error(409, "ConditionalRequestConflict");
  });
  const auto store = world.start(config_for(server.endpoint()));
  CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::retry);
  CHECK(server.seen().size() == 3);
}

TEST_CASE("failures: an endless 500 ends with the operation's deadline") {
  World world;
  ScriptedServer server(
      [](const Seen&, Connection& connection) { connection.reply_error(500, "UnknownError"); });
  Config config = config_for(server.endpoint());
  config.deadlines.operation = 400ms;
  const auto store = world.start(config);
  const Instant begin = world.reactor().now();
  CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::retry);
  CHECK(world.reactor().now() - begin < 2s);
  CHECK(server.seen().size() >= 2);
  const State state = store->state();
  CHECK_FALSE(state.reachable);
  CHECK(state.last_error.find("500 UnknownError: said UnknownError") != std::string::npos);
}

TEST_CASE("failures: 503 halves the caps, bulk first") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.number == 1) return connection.reply_error(503, "SlowDown", "Retry-After: 0\r\n");
    connection.reply(200, kTag, "");
  });
  Config config = config_for(server.endpoint());
  config.caps = {.log = 8, .foreground = 8, .bulk = 16};
  const auto store = world.start(config);
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  CHECK(store->counters().caps == std::array<u32, 3>{8, 8, 8});
}

TEST_CASE("failures: a read goes on behind the last byte after reset, truncation and stall") {
  World world;
  const Buffer body = pattern(3 * kMiB);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    switch (seen.number) {
      case 1: send_part(seen, connection, body, 700 * kKiB); return connection.close();
      case 2: send_part(seen, connection, body, 900 * kKiB); return connection.reset();
      case 3: send_part(seen, connection, body, 100 * kKiB); return connection.hang();
      default: return send_part(seen, connection, body, body.size());
    }
  });
  const auto store = world.start(config_for(server.endpoint()));
  Buffer out(2 * kMiB);
  const Instant begin = world.reactor().now();
  REQUIRE(world.run(store->read("x", 1000, out, Class::foreground)));
  // The stall has its own deadline, far below that of a whole transfer.
  CHECK(world.reactor().now() - begin < 10s);
  CHECK(same(out, body.bytes().subspan(1000, out.size())));
  const std::vector<Seen> seen = server.seen();
  REQUIRE(seen.size() == 4);
  CHECK(seen[0].header("range") == fmt::format("bytes=1000-{}", 999 + out.size()));
  CHECK(seen[0].header("if-match") == "");
  u64 before = 1000;
  for (u32 i = 1; i < 4; ++i) {
    const u64 first = asked_range(seen[i], body.size()).first;
    CHECK(first > before);
    CHECK(seen[i].header("if-match") == "\"tag\"");
    before = first;
  }
  CHECK(store->counters().resumes == 3);
  CHECK(store->counters().requests(Answer::none) == 3);
}

TEST_CASE("failures: an endpoint that wants ETags without quotes is asked so from then on") {
  World world;
  const Buffer body = pattern(kMiB);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    const std::string match = seen.header("if-match");
    if (match.starts_with('"')) return connection.reply_error(412, "PreconditionFailed");
    const bool first = match.empty();
    send_part(seen, connection, body, first ? 200 * kKiB : body.size());
    if (first) connection.close();
  });
  const auto store = world.start(config_for(server.endpoint()));
  Buffer out(kMiB);
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  CHECK(same(out, body));
  CHECK(server.seen().size() == 3);
  REQUIRE(world.run(store->read("x", 0, out, Class::foreground)));
  REQUIRE(server.seen().size() == 5);
  CHECK(server.seen()[4].header("if-match") == "tag");
}

TEST_CASE("failures: an interrupted tail becomes a range") {
  World world;
  const Buffer body = pattern(kMiB);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    send_part(seen, connection, body, seen.number == 1 ? 150 * kKiB : body.size());
    if (seen.number == 1) connection.close();
  });
  const auto store = world.start(config_for(server.endpoint()));
  const auto tail = world.run(store->read_suffix("x", 500 * kKiB, Class::foreground));
  REQUIRE(tail);
  CHECK(tail->object_bytes == kMiB);
  CHECK(same(tail->bytes, body.bytes().last(500 * kKiB)));
  REQUIRE(server.seen().size() == 2);
  CHECK(asked_range(server.seen()[1], kMiB).first == kMiB - 350 * kKiB);
}

TEST_CASE("failures: a server that ignores ranges, and one that gives another") {
  World world;
  const Buffer body = pattern(500 * kKiB);
  {
    ScriptedServer server([&](const Seen&, Connection& connection) {
      connection.reply(200, kTag, std::string(text_of(body)));
    });
    const auto store = world.start(config_for(server.endpoint()));
    Buffer out(100 * kKiB);
    REQUIRE(world.run(store->read("x", 12345, out, Class::foreground)));
    CHECK(same(out, body.bytes().subspan(12345, out.size())));
    const auto tail = world.run(store->read_suffix("x", 1000, Class::foreground));
    REQUIRE(tail);
    CHECK(tail->object_bytes == body.size());
    CHECK(same(tail->bytes, body.bytes().last(1000)));
    Buffer beyond(501 * kKiB);
    CHECK(code_of(world.run(store->read("x", 0, beyond, Class::foreground))) == Code::corrupt);
  }
  {
    ScriptedServer server([&](const Seen&, Connection& connection) {
      connection.reply(206, "Content-Range: bytes 0-99/1000\r\n", std::string(100, 'x'));
    });
    Config config = config_for(server.endpoint());
    config.deadlines.operation = 200ms;
    const auto store = world.start(config);
    Buffer out(100);
    CHECK(code_of(world.run(store->read("x", 7, out, Class::foreground))) == Code::retry);
    CHECK(code_of(world.run(store->read_suffix("x", 100, Class::foreground))) == Code::retry);
  }
}

TEST_CASE("failures: a server that gives less of a range than it has is asked for the rest") {
  World world;
  const Buffer body = pattern(1000);
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    const AskedRange asked = asked_range(seen, body.size());
    const u64 last = std::min(asked.last, asked.first + 299);
    connection.reply(
        206,
        fmt::format("ETag: \"tag\"\r\nContent-Range: bytes {}-{}/{}\r\n", asked.first, last,
                    body.size()),
        std::string(text_of(body.bytes().subspan(asked.first, last - asked.first + 1))));
  });
  const auto store = world.start(config_for(server.endpoint()));
  Buffer out(800);
  REQUIRE(world.run(store->read("x", 100, out, Class::foreground)));
  CHECK(same(out, body.bytes().subspan(100, 800)));
  CHECK(server.seen().size() == 3);
}

TEST_CASE("failures: a hung server costs the first-byte deadline per try") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.number == 1) return connection.hang();
    connection.reply(200, kTag, "");
  });
  const auto store = world.start(config_for(server.endpoint()));
  const Instant begin = world.reactor().now();
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  const Duration took = world.reactor().now() - begin;
  CHECK(took >= 400ms);
  CHECK(took < 2s);
}

TEST_CASE("failures: a server that stops reading is a stall, one that refuses early is heard") {
  World world;
  const Buffer body = pattern(32 * kMiB);
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.path.ends_with("refused")) {
      connection.reply_error(403, "AccessDenied");
      return connection.close();
    }
    if (seen.number == 1) return connection.hang();
    connection.close();
  });
  server.deaf_to = "/p/";
  Config config = config_for(server.endpoint());
  config.deadlines.operation = 100ms;
  const auto store = world.start(config);
  const Instant begin = world.reactor().now();
  CHECK(code_of(world.run(store->create("stalled", body, Class::bulk))) == Code::retry);
  CHECK(world.reactor().now() - begin < 3s);
  CHECK(store->state().last_error.find("stalled") != std::string::npos);
  const Code refused = code_of(world.run(store->create("refused", body, Class::bulk)));
  // The reset that follows an early refusal may overtake it.
  CHECK((refused == Code::denied || refused == Code::retry));
}

TEST_CASE("failures: web pages are no answers") {
  World world;
  const std::string page = "<!DOCTYPE html><html><body>Please log in</body></html>";
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    const u32 status = seen.path.ends_with("404") ? 404 : seen.path.ends_with("400") ? 400 : 200;
    connection.reply(status, "Content-Type: text/html\r\n", page);
  });
  const auto store = world.start(config_for(server.endpoint()));
  Buffer out(10);
  CHECK(code_of(world.run(store->list("", "", 10))) == Code::invalid);
  // Above all: not "written", and not "does not exist".
  CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::invalid);
  CHECK(code_of(world.run(store->read("404", 0, out, Class::log))) == Code::invalid);
  CHECK(code_of(world.run(store->read("400", 0, out, Class::log))) == Code::invalid);
  CHECK(store->state().last_error.find("a web page instead of XML") != std::string::npos);
  CHECK(server.seen().size() == 4);
}

TEST_CASE("failures: not found is what S3 says, and nothing else") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.path.ends_with("key")) return connection.reply_error(404, "NoSuchKey");
    if (seen.path.ends_with("bucket")) return connection.reply_error(404, "NoSuchBucket");
    connection.reply_error(501, "NotImplemented");
  });
  const auto store = world.start(config_for(server.endpoint()));
  Buffer out(10);
  CHECK(code_of(world.run(store->read("key", 0, out, Class::log))) == Code::not_found);
  CHECK(code_of(world.run(store->read("bucket", 0, out, Class::log))) == Code::invalid);
  CHECK(code_of(world.run(store->create("x", out, Class::log))) == Code::invalid);
  CHECK(server.seen().size() == 3);
}

TEST_CASE("failures: the bucket's region is followed once") {
  World world;
  for (const bool in_body : {false, true}) {
    ScriptedServer server([&](const Seen& seen, Connection& connection) {
      const bool right = seen.header("authorization").find("/eu-west-9/s3/") != std::string::npos;
      if (right) return connection.reply(200, kTag, "");
      if (!in_body) {
        return connection.reply_error(301, "PermanentRedirect",
                                      "x-amz-bucket-region: eu-west-9\r\n");
      }
      connection.reply(400, "",
                       "<Error><Code>AuthorizationHeaderMalformed</Code>"
                       "<Region>eu-west-9</Region></Error>");
    });
    const auto store = world.start(config_for(server.endpoint()));
    REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
    REQUIRE(world.run(store->create("y", pattern(9), Class::log)));
    CHECK(server.seen().size() == 3);
  }
  for (const char* header : {"", "x-amz-bucket-region: nowhere-1\r\n"}) {
    ScriptedServer server([&](const Seen&, Connection& connection) {
      connection.reply_error(307, "TemporaryRedirect",
                             std::string(header) + "Location: http://127.0.0.1:1/\r\n");
    });
    const auto store = world.start(config_for(server.endpoint()));
    CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::invalid);
    CHECK(server.seen().size() <= 2);
  }
}

TEST_CASE("failures: a clock that is an hour off is corrected by the server's") {
  World world;
  std::mutex mutex;
  std::vector<std::string> dates;
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    const std::scoped_lock lock(mutex);
    dates.push_back(seen.header("x-amz-date"));
    if (dates.size() == 1) {
      return connection.reply_error(403, "RequestTimeTooSkewed",
                                    "Date: Fri, 24 May 2013 00:00:00 GMT\r\n");
    }
    connection.reply(200, kTag, "");
  });
  const auto store = world.start(config_for(server.endpoint()));
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  REQUIRE(world.run(store->create("y", pattern(9), Class::log)));
  REQUIRE(dates.size() == 3);
  // The server's date has whole seconds, so the difference may be a second short.
  for (const u32 i : {1U, 2U}) {
    CAPTURE(dates[i]);
    CHECK((dates[i].starts_with("20130524T0000") || dates[i].starts_with("20130523T2359")));
  }

  ScriptedServer mad([](const Seen&, Connection& connection) {
    connection.reply_error(403, "RequestTimeTooSkewed", "Date: Fri, 24 May 2013 00:00:00 GMT\r\n");
  });
  const auto refused = world.start(config_for(mad.endpoint()));
  CHECK(code_of(world.run(refused->create("x", pattern(9), Class::log))) == Code::denied);
  CHECK(mad.seen().size() == 2);
}

TEST_CASE("failures: 403 with fixed keys is final at once, and no secret is in the words") {
  World world;
  for (const char* code :
       {"AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken"}) {
    ScriptedServer server(
        [&](const Seen&, Connection& connection) { connection.reply_error(403, code); });
    const auto store = world.start(config_for(server.endpoint()));
    CHECK(code_of(world.run(store->create("x", pattern(9), Class::log))) == Code::denied);
    CHECK(server.seen().size() == 1);
    CHECK(store->state().last_error.find("SECRET") == std::string::npos);
    CHECK(store->state().last_error.find(code) != std::string::npos);
  }
}

TEST_CASE("failures: quotas are no_space, damage on the way is repeated") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.path.ends_with("full")) return connection.reply_error(403, "QuotaExceeded");
    if (seen.number == 2) return connection.reply_error(400, "BadDigest");
    if (seen.number == 3) return connection.reply_error(400, "RequestTimeout");
    connection.reply(200, kTag, "");
  });
  const auto store = world.start(config_for(server.endpoint()));
  CHECK(code_of(world.run(store->create("full", pattern(9), Class::log))) == Code::no_space);
  CHECK(world.run(store->create("x", pattern(9), Class::log)));
}

TEST_CASE("failures: an outage heals without a restart") {
  World world;
  auto up = std::make_unique<ScriptedServer>(
      [](const Seen&, Connection& connection) { connection.reply(200, kTag, ""); });
  const u16 port = up->port();
  Config config = config_for(up->endpoint());
  config.deadlines.operation = 300ms;
  const auto store = world.start(config);
  REQUIRE(world.run(store->create("a", pattern(9), Class::log)));
  up.reset();
  CHECK(code_of(world.run(store->create("b", pattern(9), Class::log))) == Code::retry);
  CHECK_FALSE(store->state().reachable);
  CHECK(store->state().failing_for > 0s);
  up = std::make_unique<ScriptedServer>(
      [](const Seen&, Connection& connection) { connection.reply(200, kTag, ""); }, port);
  REQUIRE(world.run(store->create("b", pattern(9), Class::log)));
  CHECK(store->state().reachable);
  CHECK(store->state().failing_for == 0s);
}

TEST_CASE("failures: a reused connection that is dead costs one request, which is counted") {
  World world;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.number == 2) return connection.close();
    connection.reply(200, kTag, "");
  });
  const auto store = world.start(config_for(server.endpoint()));
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  REQUIRE(world.run(store->create("y", pattern(9), Class::log)));
  CHECK(server.seen().size() == 3);
  CHECK(store->counters().requests() == 3);
  CHECK(store->counters().requests(Answer::ok) == 2);
  CHECK(store->counters().retries[0] == 0);
}

TEST_CASE("failures: connections are kept while they are used, and closed when idle") {
  World world;
  ScriptedServer server(
      [](const Seen&, Connection& connection) { connection.reply(200, kTag, ""); });
  Config config = config_for(server.endpoint());
  config.deadlines.idle = 200ms;
  const auto store = world.start(config);
  for (u32 i = 0; i < 20; ++i) REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  CHECK(server.connections() == 1);
  server.wait_until_quiet();
  REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
  CHECK(server.connections() == 2);
  CHECK(store->counters().connections == 2);
}

namespace {

Task<> read_one(S3Store& store, u32& done) {
  Buffer out(10);
  if (co_await as_result(store.read("x", 0, out, Class::bulk))) ++done;
  co_return {};
}

Task<> read_many(World& world, S3Store& store, u32 count, u32& done) {
  Gate gate(world.reactor());
  for (u32 i = 0; i < count; ++i) gate.spawn(read_one(store, done));
  co_await gate.close();
  co_return {};
}

}  // namespace

TEST_CASE("failures: no more requests at once than the class may have") {
  World world;
  std::mutex mutex;
  u32 now = 0;
  u32 most = 0;
  ScriptedServer server([&](const Seen& seen, Connection& connection) {
    {
      const std::scoped_lock lock(mutex);
      most = std::max(most, ++now);
    }
    std::this_thread::yield();
    const Buffer body = pattern(10);
    {
      const std::scoped_lock lock(mutex);
      --now;
    }
    send_part(seen, connection, body, 10);
  });
  Config config = config_for(server.endpoint());
  config.caps.bulk = 3;
  const auto store = world.start(config);
  u32 done = 0;
  REQUIRE(world.run(read_many(world, *store, 200, done)));
  CHECK(done == 200);
  CHECK(most <= 3);
  CHECK(server.connections() <= 3);
  CHECK(store->counters().in_flight == std::array<u32, 3>{0, 0, 0});
  CHECK(store->counters().waiting == std::array<u32, 3>{0, 0, 0});
}

}  // namespace zerofs::s3::test
