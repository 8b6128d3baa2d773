// Goal: under any mixture of faults no created object is lost or torn, no read returns a wrong
// byte, and no error but `retry` comes out.
//
// Method: a server with real create-if-absent semantics that, by a seeded choice per request, fails
// before or after it did its work, cuts answers short, resets, or falls silent; many workers at
// once, with hedging. A create that ends with `precondition` is looked at, as the engine does.
#include <doctest/doctest.h>

#include <random>

#include "tests/s3/failing_world.h"

namespace zerofs::s3::test {

using store::Class;

namespace {

constexpr u64 kObjectBytesMax = 300 * kKiB;

class FaultyBucket {
 public:
  explicit FaultyBucket(u64 seed) : random_(seed) {}

  void answer(const Seen& seen, Connection& connection) {
    const u32 fate = draw(100);
    if (fate < 4) return connection.reply_error(500, "InternalError");
    if (fate < 8) return connection.reply_error(503, "SlowDown");
    if (fate < 10) return connection.reset();
    if (fate < 11) return connection.hang();
    if (seen.method == "PUT") return put(seen, connection, fate);
    get(seen, connection, fate);
  }
  std::map<std::string, std::string> objects() {
    const std::scoped_lock lock(mutex_);
    return objects_;
  }

 private:
  u32 draw(u32 below) {
    const std::scoped_lock lock(mutex_);
    return static_cast<u32>(random_() % below);
  }
  void put(const Seen& seen, Connection& connection, u32 fate) {
    bool created = false;
    {
      const std::scoped_lock lock(mutex_);
      created = objects_.emplace(seen.path, seen.body).second;
    }
    if (fate < 16) return connection.close();  // done, and nobody is told
    if (fate < 18) return connection.reply_error(500, "InternalError");
    if (fate < 20) return connection.reply_error(409, "ConditionalRequestConflict");
    if (!created) return connection.reply_error(412, "PreconditionFailed");
    connection.reply(200, "ETag: \"t\"\r\n", "");
  }
  void get(const Seen& seen, Connection& connection, u32 fate) {
    std::string body;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = objects_.find(seen.path);
      if (found == objects_.end()) return connection.reply_error(404, "NoSuchKey");
      body = found->second;
    }
    const u64 sent = fate < 25 ? draw(kObjectBytesMax) : body.size();
    send_part(seen, connection, bytes_of(body), sent);
    if (fate < 18) return connection.reset();
    if (fate < 25) return connection.close();
  }

  std::mutex mutex_;
  std::mt19937_64 random_;
  std::map<std::string, std::string> objects_;
};

struct Tally {
  u32 created = 0;
  u32 read = 0;
  u32 gave_up = 0;
  u32 wrong = 0;
};

Task<> one_object(S3Store& store, std::string name, u64 seed, Tally& tally) {
  std::mt19937_64 random(seed);
  const u64 size = 1 + random() % kObjectBytesMax;
  const Buffer body = pattern(size, seed);
  const Class klass = static_cast<Class>(random() % 3);
  bool created = false;
  while (!created) {
    const Result<> result = co_await as_result(store.create(name, body, klass));
    if (result) {
      created = true;
    } else if (result.error().code() == Code::precondition) {
      const Result<store::Tail> tail = co_await as_result(store.read_suffix(name, size + 1, klass));
      if (!tail) {
        ++tally.gave_up;
        continue;
      }
      if (tail->object_bytes != size || !same(tail->bytes, body)) ++tally.wrong;
      created = true;
    } else {
      if (result.error().code() != Code::retry) ++tally.wrong;
      ++tally.gave_up;
    }
  }
  ++tally.created;
  for (u32 i = 0; i < 6; ++i) {
    const u64 offset = random() % size;
    Buffer out(1 + random() % (size - offset));
    const Result<> result = co_await as_result(store.read(name, offset, out, klass));
    if (result) {
      ++tally.read;
      if (!same(out, body.bytes().subspan(offset, out.size()))) ++tally.wrong;
    } else {
      ++tally.gave_up;
      if (result.error().code() != Code::retry) ++tally.wrong;
    }
  }
  co_return {};
}

Task<> all_objects(World& world, S3Store& store, u32 count, u64 seed, Tally& tally) {
  Gate gate(world.reactor());
  for (u32 i = 0; i < count; ++i) {
    gate.spawn(one_object(store, fmt::format("o{:04}", i), seed * 1000 + i, tally));
  }
  co_await gate.close();
  co_return {};
}

}  // namespace

TEST_CASE("chaos: nothing is lost, torn or wrong") {
  const u64 seed = SystemEnvironment().variable("SEED")
                       ? std::stoull(*SystemEnvironment().variable("SEED"))
                       : u64{20130524};
  CAPTURE(seed);
  World world;
  FaultyBucket bucket(seed);
  ScriptedServer server(
      [&](const Seen& seen, Connection& connection) { bucket.answer(seen, connection); });
  Config config = config_for(server.endpoint());
  config.hedging = {.budget = 0.05, .delay_min = 20ms};
  const auto store = world.start(config);
  Tally tally;
  constexpr u32 kObjects = 150;
  REQUIRE(world.run(all_objects(world, *store, kObjects, seed, tally)));
  CHECK(tally.wrong == 0);
  CHECK(tally.created == kObjects);
  CHECK(tally.read > kObjects * 5);
  const auto objects = bucket.objects();
  CHECK(objects.size() == kObjects);
  for (u32 i = 0; i < kObjects; ++i) {
    const auto found = objects.find(fmt::format("/b/p/o{:04}", i));
    REQUIRE(found != objects.end());
    CHECK(same(bytes_of(found->second), pattern(found->second.size(), seed * 1000 + i)));
  }
  const Counters counters = store->counters();
  // Nothing went out uncounted; a hedge may be called back before it left.
  CHECK(counters.requests() >= server.seen().size());
  CHECK(counters.resumes > 0);
  CHECK(counters.hedges > 0);
  CHECK(counters.requests(Answer::failed) > 0);
  CHECK(counters.in_flight == std::array<u32, 3>{0, 0, 0});
  MESSAGE("requests " << counters.requests() << ", hedges " << counters.hedges << " won "
                      << counters.hedges_won << ", resumes " << counters.resumes << ", gave up "
                      << tally.gave_up);
}

}  // namespace zerofs::s3::test
