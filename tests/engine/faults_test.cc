// Goal: lost replies, failures and outages of the store lose nothing and end nothing.
// Method: numbered pages written and flushed through a store that misbehaves, then read by a second
// owner through a good one.
#include <doctest/doctest.h>

#include "engine/lsm/version_set.h"
#include "tests/engine/faulty_store.h"
#include "tests/engine/world.h"

namespace zerofs {
namespace {

using test::FaultyStore;
using test::World;

std::vector<std::byte> page_of(u64 number) {
  std::vector<std::byte> page(kPageBytes);
  for (u64 i = 0; i < page.size(); i += 8) std::memcpy(page.data() + i, &number, 8);
  return page;
}

TEST_CASE("a store that loses replies loses no data") {
  for (u64 seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    World world;
    world.create();
    FaultyStore faulty(world.store(), seed);
    faulty.percent = 30;
    DbOptions options = world.options();
    options.memtable_objects_max = 10;  // tables and manifests go through the faults as well
    Result<std::unique_ptr<Db>> opened =
        world.run(Db::open(world.runtime(), faulty, world.keys(), options));
    REQUIRE(opened.has_value());
    std::unique_ptr<Db> db = std::move(*opened);
    const ObjectId id = db->new_object_id();
    Object* object = db->open_object(id);
    for (u64 i = 0; i < 60; ++i) {
      REQUIRE(world.run(db->write(*object, i % 40 * kPageBytes, page_of(i))).has_value());
      REQUIRE(world.run(db->wait_durable(db->position())).has_value());
    }
    CHECK(faulty.lost_replies > 0);
    CHECK_FALSE(db->fenced());
    // The process dies; another one reads the store as it is.
    db->close_object(object);
    db->abandon();
    static_cast<void>(world.run(db->close()));
    db.reset();
    std::unique_ptr<Db> next = std::move(*world.open());
    object = next->open_object(id);
    for (u64 page = 0; page < 40; ++page) {
      std::vector<Piece> pieces;
      REQUIRE(world.run(next->read(*object, page * kPageBytes, kPageBytes, pieces)).has_value());
      const std::vector<std::byte> wanted = page_of(page < 20 ? page + 40 : page);
      CHECK(std::memcmp(pieces.front().data, wanted.data(), kPageBytes) == 0);
      next->unpin(pieces);
    }
    next->close_object(object);
    REQUIRE(world.run(next->close()).has_value());
  }
}

Task<> flush_during_outage(World& world, Db& db, FaultyStore& faulty, bool& done) {
  co_await db.wait_durable(db.position());
  done = true;
  static_cast<void>(world);
  static_cast<void>(faulty);
  co_return {};
}
Task<> outage(World& world, Db& db, FaultyStore& faulty, Object& object, bool& held) {
  Gate gate(world.reactor());
  bool done = false;
  faulty.percent = 200;  // nothing works
  gate.spawn(flush_during_outage(world, db, faulty, done));
  co_await sleep_for(world.runtime(), 400ms);
  held = !done && db.status().store_failing_for > Duration(0);
  // Cached data and new writes go on meanwhile.
  std::vector<Piece> pieces;
  held = held && db.try_read(object, 0, kPageBytes, pieces);
  db.unpin(pieces);
  held = held && db.try_write(object, kPageBytes, page_of(2));
  faulty.percent = 0;
  co_await gate.close();
  held = held && done && db.status().store_failing_for == Duration(0);
  co_return {};
}

TEST_CASE("an outage holds flushes up and ends without a restart") {
  World world;
  world.create();
  FaultyStore faulty(world.store(), 1);
  std::unique_ptr<Db> db =
      std::move(*world.run(Db::open(world.runtime(), faulty, world.keys(), world.options())));
  Object* object = db->open_object(db->new_object_id());
  REQUIRE(db->try_write(*object, 0, page_of(1)));
  bool held = false;
  REQUIRE(world.run(outage(world, *db, faulty, *object, held)).has_value());
  CHECK(held);
  db->close_object(object);
  REQUIRE(world.run(db->close()).has_value());
}

// ---- the version set

format::TermRecord term_record(u64 term) {
  return {.term = {term}, .end = {}, .owner = {}};
}

TEST_CASE("two committers: the one with the older term is fenced, edits are validated anew") {
  World world;
  lsm::VersionSet first(world.runtime(), world.store(), world.keys());
  REQUIRE(world.run(first.create()).has_value());
  lsm::VersionSet second(world.runtime(), world.store(), world.keys());
  REQUIRE(world.run(second.load()).has_value());

  REQUIRE(world.run(first.commit({lsm::TakeTerm{term_record(1)}})).has_value());
  first.set_term({1});
  // The second one's idea of the version is old: the same term is not free any more.
  const Result<> taken = world.run(second.commit({lsm::TakeTerm{term_record(1)}}));
  REQUIRE_FALSE(taken.has_value());
  CHECK(taken.error().code() == Code::precondition);
  REQUIRE(world.run(second.commit({lsm::TakeTerm{term_record(2)}})).has_value());
  second.set_term({2});

  const Result<> late = world.run(first.commit({lsm::SealTerm{{1}, 5, true}}));
  REQUIRE_FALSE(late.has_value());
  CHECK(late.error().code() == Code::fenced);
  REQUIRE(world.run(second.commit({lsm::SealTerm{{1}, 3, false}})).has_value());
  CHECK(second.current().terms.front().end == 3);
  // A replay point moves only from where it is.
  const Result<> wrong = world.run(second.commit({lsm::FlushMemtable{{{{1}, 1, 3}}, {}}}));
  REQUIRE_FALSE(wrong.has_value());
  CHECK(wrong.error().code() == Code::precondition);
  REQUIRE(world.run(second.commit({lsm::FlushMemtable{{{{1}, 0, 3}}, {}}})).has_value());
}

TEST_CASE("a version in a block that was deleted does not count") {
  World world;
  lsm::VersionSet set(world.runtime(), world.store(), world.keys());
  REQUIRE(world.run(set.create()).has_value());
  REQUIRE(world.run(set.commit({lsm::TakeTerm{term_record(1)}})).has_value());
  set.set_term({1});
  // A committer with an ancient base: everything after it was written and deleted long ago.
  lsm::VersionSet ancient(world.runtime(), world.store(), world.keys());
  REQUIRE(world.run(ancient.load()).has_value());
  format::Manifest newest = set.current();
  newest.version = 5000;
  const std::byte nonce[24] = {};
  const Buffer body = format::encode_manifest(world.keys(), newest, nonce);
  REQUIRE(
      world.run(world.store().create(format::manifest_name(5000), body, store::Class::foreground))
          .has_value());
  const std::byte marker[1] = {};
  REQUIRE(world.run(world.store().create(format::gone_name(0), marker, store::Class::foreground))
              .has_value());
  REQUIRE(world.run(ancient.commit({lsm::TakeTerm{term_record(2)}})).has_value());
  CHECK(ancient.current().version == 5001);
}

TEST_CASE("a commit whose reply is lost is recognised as our own") {
  World world;
  lsm::VersionSet set(world.runtime(), world.store(), world.keys());
  REQUIRE(world.run(set.create()).has_value());
  FaultyStore faulty(world.store(), 3);
  lsm::VersionSet shaky(world.runtime(), faulty, world.keys());
  REQUIRE(world.run(shaky.load()).has_value());
  faulty.percent = 60;
  for (u64 term = 1; term <= 12; ++term) {
    Result<> committed = world.run(shaky.commit({lsm::TakeTerm{term_record(term)}}));
    REQUIRE(committed.has_value());
  }
  CHECK(faulty.lost_replies > 0);
  CHECK(shaky.current().version == 13);
}

// The next create of a name that starts with `target` is applied and answered "exists"; the next
// look at it gets an answer that was damaged on its way.
class DamagedLook final : public store::ObjectStore {
 public:
  explicit DamagedLook(store::ObjectStore& inner) : inner_(inner) {}
  std::string target;
  u32 damaged = 0;

  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override {
    return inner_.read(std::move(name), offset, out, klass);
  }
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override {
    store::Tail tail = co_await inner_.read_suffix(name, bytes_max, klass);
    if (name == exists_) {
      exists_.clear();
      ++damaged;
      tail.bytes.data()[tail.bytes.size() / 2] ^= std::byte{1};
    }
    co_return std::move(tail);
  }
  Task<> create(std::string name, Bytes body, store::Class klass) override {
    const bool strikes = !target.empty() && name.starts_with(target);
    co_await inner_.create(name, body, klass);
    if (!strikes) co_return {};
    target.clear();
    exists_ = name;
    co_return fail(Code::precondition, "exists");
  }
  Task<> remove(std::string name) override { return inner_.remove(std::move(name)); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    return inner_.list(std::move(prefix), std::move(after), count);
  }

 private:
  store::ObjectStore& inner_;
  std::string exists_;
};

TEST_CASE("a damaged answer is taken neither for a fence nor for another's manifest") {
  for (const char* const target : {"log/", "manifest/"}) {
    CAPTURE(target);
    World world;
    world.create();
    DamagedLook store(world.store());
    std::unique_ptr<Db> db =
        std::move(*world.run(Db::open(world.runtime(), store, world.keys(), world.options())));
    Object* object = db->open_object(db->new_object_id());
    store.target = target;
    REQUIRE(world.run(db->write(*object, 0, page_of(7))).has_value());
    REQUIRE(world.run(db->wait_durable(db->position())).has_value());
    db->close_object(object);
    // The memtable enters the manifest: once, and the database knows that it did.
    REQUIRE(world.run(db->close()).has_value());
    CHECK(store.damaged == 1);
    CHECK_FALSE(db->fenced());
  }
}

// ---- compaction

Task<> pause(World& world, Duration duration) {
  co_await sleep_for(world.runtime(), duration);
  co_return {};
}

TEST_CASE("tables are merged in the background, and their objects go") {
  World world;
  world.create();
  DbOptions options = world.options();
  options.memtable_objects_max = 1;
  std::unique_ptr<Db> db = std::move(
      *world.run(Db::open(world.runtime(), world.store(), world.keys(), std::move(options))));
  Object* object = db->open_object(db->new_object_id());
  for (u64 i = 0; i < 5000 && db->status().compactions < 12; ++i) {
    REQUIRE(world.run(db->write(*object, i * kChunkBytes, page_of(i))).has_value());
    REQUIRE(world.run(db->wait_durable(db->position())).has_value());
    REQUIRE(world.run(pause(world, 2ms)).has_value());
  }
  for (int i = 0; i < 500 && db->status().tables_level0 >= lsm::kLevel0Trigger; ++i) {
    REQUIRE(world.run(pause(world, 10ms)).has_value());
  }
  CHECK(db->status().compactions >= 12);
  CHECK(db->status().tables_level0 < lsm::kLevel0Trigger);
  db->close_object(object);
  REQUIRE(world.run(db->close()).has_value());
  u64 tables = 0;
  for (const auto& [name, bytes] : world.store().objects()) tables += name.starts_with("sst/");
  // Written in key order, but not one table for each time that level 0 went down.
  CHECK(tables <= lsm::kLevel0Trigger + 6);
}

TEST_CASE("a damaged table stops compaction, and nobody else") {
  World world;
  world.create();
  DbOptions options = world.options();
  options.memtable_objects_max = 1;
  std::unique_ptr<Db> db = std::move(
      *world.run(Db::open(world.runtime(), world.store(), world.keys(), std::move(options))));
  Object* object = db->open_object(db->new_object_id());
  bool damaged = false;
  for (int i = 0; i < 2000 && db->status().tables_level0 <= lsm::kLevel0Stop + 2; ++i) {
    const u64 chunk = static_cast<u64>(i) % 200;
    REQUIRE(world.run(db->write(*object, chunk * kChunkBytes, page_of(3))).has_value());
    REQUIRE(world.run(db->wait_durable(db->position())).has_value());
    REQUIRE(world.run(pause(world, 2ms)).has_value());
    for (auto& [name, bytes] : world.store().objects()) {
      if (damaged || !name.starts_with("sst/")) continue;
      bytes.data()[bytes.size() - 60] ^= std::byte{4};
      damaged = true;
    }
  }
  CHECK(db->status().tables_level0 > lsm::kLevel0Stop);
  CHECK(db->status().compactions == 0);
  db->close_object(object);
  REQUIRE(world.run(db->close()).has_value());
}

}  // namespace
}  // namespace zerofs
