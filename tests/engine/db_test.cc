// Goal: what is written is read, also after a clean close, a crash, and with the cache too small.
// Method: random operations against a plain model of one object, on a memory store; a crash is an
// abandoned database, after which the model goes back to the last flush.
#include "engine/db.h"

#include <doctest/doctest.h>

#include <random>

#include "tests/engine/world.h"

namespace zerofs {
namespace {

using test::World;

class Model {
 public:
  explicit Model(u64 bytes) : bytes_(bytes) {}
  void write(u64 offset, Bytes data) {
    std::memcpy(bytes_.data() + offset, data.data(), data.size());
  }
  void zero(u64 offset, u64 count) { std::memset(bytes_.data() + offset, 0, count); }
  // A discard frees whole pages and leaves parts alone.
  void discard(u64 offset, u64 count) {
    const u64 begin = (offset + kPageBytes - 1) / kPageBytes * kPageBytes;
    const u64 end = (offset + count) / kPageBytes * kPageBytes;
    if (begin < end) zero(begin, end - begin);
  }
  const std::byte* data() const { return bytes_.data(); }
  std::vector<std::byte> bytes_;
};

std::vector<std::byte> read_all(World& world, Db& db, Object& object, u64 offset, u32 bytes) {
  std::vector<Piece> pieces;
  if (!db.try_read(object, offset, bytes, pieces)) {
    const Result<> read = world.run(db.read(object, offset, bytes, pieces));
    REQUIRE(read.has_value());
  }
  std::vector<std::byte> out;
  for (const Piece& piece : pieces) out.insert(out.end(), piece.data, piece.data + piece.bytes);
  db.unpin(pieces);
  REQUIRE(out.size() == bytes);
  return out;
}

struct Run {
  explicit Run(u64 seed) : random(seed), model(kBytes), flushed(kBytes) { world.create(); }
  static constexpr u64 kBytes = 12 * kMiB;

  void open(DbOptions options) {
    Result<std::unique_ptr<Db>> opened = world.open(std::move(options));
    REQUIRE(opened.has_value());
    db = std::move(*opened);
    if (id.value == 0) id = db->new_object_id();
    object = db->open_object(id);
  }
  void close() {
    db->close_object(object);
    const Result<> closed = world.run(db->close());
    REQUIRE(closed.has_value());
    db.reset();
    flushed = model;
  }
  void crash() {
    db->close_object(object);
    db->abandon();
    static_cast<void>(world.run(db->close()));  // fails: it was abandoned
    db.reset();
  }
  void flush() {
    const Result<> durable = world.run(db->wait_durable(db->position()));
    REQUIRE(durable.has_value());
    flushed = model;
  }
  void step() {
    const u64 offset = random() % kBytes;
    const u64 length = std::min<u64>(kBytes - offset, 1 + random() % (random() % 8 == 0 ? 400000 : 9000));
    const u64 page = offset / kPageBytes * kPageBytes;
    switch (random() % 10) {
      case 0:
      case 1:
      case 2: {
        const std::vector<std::byte> data = pattern(length);
        if (!db->try_write(*object, offset, data)) {
          REQUIRE(world.run(db->write(*object, offset, data)).has_value());
        }
        model.write(offset, data);
        break;
      }
      case 3:
      case 4: {
        const std::vector<std::byte> data = pattern(kPageBytes);
        if (!db->try_write(*object, page, data)) {
          REQUIRE(world.run(db->write(*object, page, data)).has_value());
        }
        model.write(page, data);
        break;
      }
      case 5: {
        const bool huge = random() % 8 == 0;
        const u64 count = huge ? kBytes - offset : length;
        REQUIRE(world.run(db->discard(*object, offset, count)).has_value());
        model.discard(offset, count);
        break;
      }
      case 6: {
        const auto as = random() % 2 == 0 ? Db::ZeroAs::hole : Db::ZeroAs::zero;
        REQUIRE(world.run(db->write_zeroes(*object, offset, length, as)).has_value());
        model.zero(offset, length);
        break;
      }
      case 7:
        if (random() % 4 == 0) flush();
        break;
      default: check(offset, static_cast<u32>(length)); break;
    }
  }
  void check(u64 offset, u32 length) {
    const std::vector<std::byte> got = read_all(world, *db, *object, offset, length);
    const bool same = std::memcmp(got.data(), model.data() + offset, length) == 0;
    if (!same) {
      for (u64 i = 0; i < length; ++i) {
        if (got[i] == model.data()[offset + i]) continue;
        FAIL("first difference at byte ", offset + i, " page ", (offset + i) / kPageBytes);
      }
    }
  }
  void check_all() {
    for (u64 at = 0; at < kBytes; at += kMiB) check(at, kMiB);
  }
  std::vector<std::byte> pattern(u64 length) {
    std::vector<std::byte> data(length);
    const u64 seed = random();
    const bool compressible = seed % 2 == 0;
    for (u64 i = 0; i < length; ++i) {
      data[i] = static_cast<std::byte>(compressible ? seed + i / 64 : (seed ^ i * 0x9e3779b97f4a7c15ull) >> 24);
    }
    return data;
  }

  World world;
  std::mt19937_64 random;
  Model model;
  Model flushed;
  std::unique_ptr<Db> db;
  ObjectId id{};
  Object* object = nullptr;
};

TEST_CASE("random operations against a model, closed and opened again") {
  for (u64 seed = 1; seed <= 6; ++seed) {
    CAPTURE(seed);
    Run run(seed);
    for (int round = 0; round < 5; ++round) {
      DbOptions options = run.world.options();
      options.memtable_objects_max = 20;  // tables come early
      run.open(std::move(options));
      run.check_all();
      for (int i = 0; i < 300; ++i) run.step();
      run.check_all();
      run.close();
    }
  }
}

TEST_CASE("after a crash the last flush is there, and nothing newer is torn") {
  for (u64 seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    Run run(seed);
    for (int round = 0; round < 6; ++round) {
      run.open(run.world.options());
      for (int i = 0; i < 150; ++i) run.step();
      run.flush();
      run.crash();
      run.model = run.flushed;
    }
    run.open(run.world.options());
    run.check_all();
    run.close();
  }
}

TEST_CASE("one write and a flush are one create") {
  Run run(1);
  run.open(run.world.options());
  const u64 before = run.world.store().counters().requests();
  run.world.run(run.db->write(*run.object, 0, run.pattern(kPageBytes)));
  run.flush();
  CHECK(run.world.store().counters().requests() == before + 1);
  // Nothing is dirty: a flush asks for nothing.
  run.flush();
  CHECK(run.world.store().counters().requests() == before + 1);
  run.close();
}

TEST_CASE("a cleanly closed database opens with few requests and replays nothing") {
  Run run(1);
  run.open(run.world.options());
  for (int i = 0; i < 200; ++i) run.step();
  run.close();
  const u64 before = run.world.store().counters().requests();
  run.open(run.world.options());
  CHECK(run.world.store().counters().requests() - before <= 10);
  CHECK(run.db->status().layers == 0);
  run.check_all();
  run.close();
}

TEST_CASE("extents tell data from zeroes and holes, and cover what was asked") {
  Run run(1);
  run.open(run.world.options());
  const auto write = [&](u64 page, u64 pages) {
    run.world.run(run.db->write(*run.object, page * kPageBytes, run.pattern(pages * kPageBytes)));
  };
  write(10, 3);
  write(1000, 40);
  run.world.run(run.db->write_zeroes(*run.object, 500 * kPageBytes, 20 * kPageBytes,
                                     Db::ZeroAs::zero));
  const auto expect = [&] {
    const auto extents = run.world.run(run.db->extents(*run.object, 0, 2000 * kPageBytes, 100));
    REQUIRE(extents.has_value());
    const std::vector<std::pair<u64, ExtentKind>> wanted = {
        {10, ExtentKind::hole},  {3, ExtentKind::data},   {487, ExtentKind::hole},
        {20, ExtentKind::zero},  {480, ExtentKind::hole}, {40, ExtentKind::data},
        {960, ExtentKind::hole}};
    REQUIRE(extents->size() == wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      CHECK((*extents)[i].bytes == wanted[i].first * kPageBytes);
      CHECK((*extents)[i].kind == wanted[i].second);
    }
  };
  expect();
  run.flush();
  expect();
  run.close();
  run.open(run.world.options());
  expect();
  run.close();
}

TEST_CASE("meta: transactions survive, deletions too, a scan sees the newest") {
  World world;
  world.create();
  {
    std::unique_ptr<Db> db = std::move(*world.open());
    Transaction first;
    first.meta = {{"v/a", "1"}, {"v/b", "2"}, {"w/c", "3"}};
    REQUIRE(world.run(db->commit(std::move(first))).has_value());
    Transaction second;
    second.meta = {{"v/a", std::nullopt}, {"v/d", "4"}};
    REQUIRE(world.run(db->commit(std::move(second))).has_value());
    CHECK(world.run(db->get_meta("v/b")).value().value() == "2");
    CHECK_FALSE(world.run(db->get_meta("v/a")).value().has_value());
    REQUIRE(world.run(db->close()).has_value());
  }
  std::unique_ptr<Db> db = std::move(*world.open());
  const std::vector<lsm::MetaEntry> entries = world.run(db->scan_meta("v/")).value();
  REQUIRE(entries.size() == 2);
  CHECK(entries[0] == lsm::MetaEntry{"v/b", "2"});
  CHECK(entries[1] == lsm::MetaEntry{"v/d", "4"});
  REQUIRE(world.run(db->close()).has_value());
}

// Noise, so that a page in RAM is a page in the store.
std::vector<std::byte> noise(u64 bytes) {
  std::mt19937_64 random(11);
  std::vector<std::byte> out(bytes);
  for (u64 at = 0; at < bytes; at += 8) {
    const u64 word = random();
    std::memcpy(out.data() + at, &word, 8);
  }
  return out;
}

TEST_CASE("a cold random read costs one request; a sequential reader finds its data there") {
  constexpr u64 kBytes = 96 * kMiB;
  World world;
  world.create();
  DbOptions options = world.options();
  options.memory_bytes = 512 * kMiB;
  const std::vector<std::byte> data = noise(kBytes);
  ObjectId id;
  {
    std::unique_ptr<Db> db = std::move(*world.open(options));
    id = db->new_object_id();
    Object* object = db->open_object(id);
    for (u64 at = 0; at < kBytes; at += kMiB) {
      REQUIRE(world.run(db->write(*object, at, std::span(data).subspan(at, kMiB))).has_value());
    }
    db->close_object(object);
    REQUIRE(world.run(db->close()).has_value());
  }
  const auto cold = [&] { return std::move(*world.open(options)); };
  const auto is_right = [&](Db& db, Object& object, u64 at, u32 bytes) {
    const std::vector<std::byte> got = read_all(world, db, object, at, bytes);
    return std::ranges::equal(got, std::span(data).subspan(at, bytes));
  };

  SUBCASE("random") {
    std::unique_ptr<Db> db = cold();
    Object* object = db->open_object(id);
    const auto read_scattered = [&](u64 from) {
      u64 reads = 0;
      for (u64 at = from; at + kPageBytes < kBytes; at += 3 * kMiB + 5 * kPageBytes) {
        CHECK(is_right(*db, *object, at, kPageBytes));
        ++reads;
      }
      return reads;
    };
    read_scattered(0);  // brings the index into its cache
    const u64 before = world.store().counters().requests();
    const u64 reads = read_scattered(kMiB);
    CHECK(world.store().counters().requests() - before == reads);
    db->close_object(object);
    REQUIRE(world.run(db->close()).has_value());
  }
  SUBCASE("sequential") {
    std::unique_ptr<Db> db = cold();
    Object* object = db->open_object(id);
    const u64 before = world.store().counters().reads;
    u64 waits = 0;
    for (u64 at = 0; at < kBytes; at += 128 * kKiB) {
      std::vector<Piece> pieces;
      if (db->try_read(*object, at, 128 * kKiB, pieces)) {
        db->unpin(pieces);
      } else {
        ++waits;
      }
      CHECK(is_right(*db, *object, at, 128 * kKiB));
    }
    // How far the workers are when the next read comes depends on the machine; without reading ahead
    // every one of the 768 would wait.
    CHECK(waits < 200);
    CHECK(world.store().counters().reads - before < 100);  // large ones
    db->close_object(object);
    REQUIRE(world.run(db->close()).has_value());
  }
}

// Reads wait until they are let go.
class HeldStore final : public store::ObjectStore {
 public:
  HeldStore(store::ObjectStore& inner, Executor& executor) : inner_(inner), released_(executor) {}
  bool held = false;
  void release() {
    held = false;
    released_.wake_all();
  }
  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override {
    while (held) co_await released_.wait();
    co_return co_await as_result(inner_.read(name, offset, out, klass));
  }
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override {
    return inner_.read_suffix(name, bytes_max, klass);
  }
  Task<> create(std::string name, Bytes body, store::Class klass) override {
    return inner_.create(name, body, klass);
  }
  Task<> remove(std::string name) override { return inner_.remove(name); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    return inner_.list(prefix, after, count);
  }

 private:
  store::ObjectStore& inner_;
  Event released_;
};

Task<> read_into(Db& db, Object& object, std::vector<Piece>& pieces, Result<>& result) {
  result = co_await as_result(db.read(object, 0, kPageBytes, pieces));
  co_return {};
}

TEST_CASE("a chunk discarded while it is being fetched can be read before the fetch is over") {
  World world;
  world.create();
  HeldStore store(world.store(), world.reactor());
  const auto open = [&] {
    return std::move(*world.run(Db::open(world.runtime(), store, world.keys(), world.options())));
  };
  ObjectId id;
  {
    std::unique_ptr<Db> db = open();
    id = db->new_object_id();
    Object* object = db->open_object(id);
    REQUIRE(world.run(db->write(*object, 0, noise(kChunkBytes))).has_value());
    db->close_object(object);
    REQUIRE(world.run(db->close()).has_value());
  }
  std::unique_ptr<Db> db = open();
  Object* object = db->open_object(id);
  static_cast<void>(read_all(world, *db, *object, kPageBytes * 30, kPageBytes));  // the index
  store.held = true;
  Gate gate(world.reactor());
  std::vector<Piece> before, after;
  Result<> read_before, read_after;
  gate.spawn(read_into(*db, *object, before, read_before));
  REQUIRE(world.run(db->discard(*object, 0, kChunkBytes)).has_value());
  gate.spawn(read_into(*db, *object, after, read_after));  // must not spin here
  store.release();
  REQUIRE(world.run(gate.close()).has_value());
  REQUIRE(read_before.has_value());
  REQUIRE(read_after.has_value());
  REQUIRE(after.size() == 1);
  CHECK(after.front().is_zeroes());
  db->unpin(before);
  db->unpin(after);
  db->close_object(object);
  REQUIRE(world.run(db->close()).has_value());
}

TEST_CASE("a second opener fences the first, which acknowledges nothing more") {
  World world;
  world.create();
  std::unique_ptr<Db> old = std::move(*world.open());
  const ObjectId id = old->new_object_id();
  Object* object = old->open_object(id);
  const std::vector<std::byte> data(kPageBytes, std::byte{5});
  REQUIRE(world.run(old->write(*object, 0, data)).has_value());
  REQUIRE(world.run(old->wait_durable(old->position())).has_value());

  std::unique_ptr<Db> young = std::move(*world.open());
  REQUIRE(world.run(old->write(*object, kPageBytes, data)).has_value());  // in RAM: nobody knows yet
  const Result<> flushed = world.run(old->wait_durable(old->position()));
  REQUIRE_FALSE(flushed.has_value());
  CHECK(flushed.error().code() == Code::fenced);
  CHECK(old->fenced());
  CHECK_FALSE(old->try_write(*object, 0, data));

  Object* again = young->open_object(id);
  CHECK(read_all(world, *young, *again, 0, kPageBytes) == data);
  CHECK(read_all(world, *young, *again, kPageBytes, kPageBytes) ==
        std::vector<std::byte>(kPageBytes));
  young->close_object(again);
  REQUIRE(world.run(young->close()).has_value());
  old->close_object(object);
  static_cast<void>(world.run(old->close()));  // fails: fenced
}

}  // namespace
}  // namespace zerofs
