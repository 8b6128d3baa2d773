// Goal: every store keeps the contract of object_store.h. Method: one table of tests, run on each.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "engine/store/file_store.h"
#include "engine/store/memory_store.h"
#include "engine/store/names.h"
#include "engine/store/open_store.h"
#include "engine/store/probe.h"

namespace zerofs::store {
namespace {

class World {
 public:
  World() : pool_({.threads = 1}), threads_({.threads = 8}) {
    Result<std::unique_ptr<Reactor>> made = Reactor::create(pool_, {});
    REQUIRE(made.has_value());
    reactor_ = std::move(*made);
    char name[] = "/tmp/zerofs-store-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~World() { std::filesystem::remove_all(path_); }
  std::unique_ptr<ObjectStore> memory() { return std::make_unique<MemoryStore>(*reactor_); }
  std::unique_ptr<ObjectStore> file() {
    return std::move(
        *FileStore::open(path_ + "/store", FileStore::IfMissing::create, threads_, *reactor_));
  }
  template <class T>
  Result<T> run(Task<T> task) {
    return run_until_done(*reactor_, std::move(task));
  }
  Runtime runtime() { return {*reactor_, *reactor_, random_}; }
  const std::string& path() const { return path_; }

 private:
  WorkerPool pool_;
  WorkerPool threads_;
  std::unique_ptr<Reactor> reactor_;
  SystemRandom random_;
  std::string path_;
};

Buffer pattern(std::size_t size, u8 seed) {
  Buffer out(size);
  for (std::size_t i = 0; i < size; ++i) out.data()[i] = static_cast<std::byte>(i * 31 + seed);
  return out;
}

template <class Test>
void on_each_store(Test test) {
  for (const bool file : {false, true}) {
    CAPTURE(file);
    World world;
    const std::unique_ptr<ObjectStore> store = file ? world.file() : world.memory();
    test(world, *store);
  }
}

TEST_CASE("create, read, suffix, remove") {
  on_each_store([](World& world, ObjectStore& store) {
    // Around the sizes where the file store changes its way of writing.
    for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{262143},
                                   std::size_t{262144}, std::size_t{1000001}}) {
      CAPTURE(size);
      const std::string name = "log/000001/" + std::to_string(size);
      const Buffer body = pattern(size, 1);
      REQUIRE(world.run(store.create(name, body, Class::log)).has_value());
      const Result<> again = world.run(store.create(name, body, Class::log));
      REQUIRE_FALSE(again.has_value());
      CHECK(again.error().code() == Code::precondition);
      Buffer out(size);
      REQUIRE(world.run(store.read(name, 0, out, Class::foreground)).has_value());
      CHECK(std::ranges::equal(out.bytes(), body.bytes()));
      const Result<Tail> tail = world.run(store.read_suffix(name, 100, Class::foreground));
      REQUIRE(tail.has_value());
      CHECK(tail->object_bytes == size);
      CHECK(std::ranges::equal(tail->bytes.bytes(),
                               body.bytes().last(std::min<std::size_t>(100, size))));
      Buffer beyond(10);
      const Result<> past = world.run(store.read(name, size - 1, beyond, Class::foreground));
      REQUIRE_FALSE(past.has_value());
      CHECK(past.error().code() == Code::corrupt);
      REQUIRE(world.run(store.remove(name)).has_value());
      REQUIRE(world.run(store.remove(name)).has_value());
      const Result<Tail> gone = world.run(store.read_suffix(name, 1, Class::foreground));
      REQUIRE_FALSE(gone.has_value());
      CHECK(gone.error().code() == Code::not_found);
    }
  });
}

TEST_CASE("list: prefix, order, after, count; a prefix is not a directory") {
  on_each_store([](World& world, ObjectStore& store) {
    for (const char* name : {"manifest/ff", "manifest/fe", "log/000002/00", "log/000001/01",
                             "log/000001/00", "logs", "sst/a"}) {
      REQUIRE(world.run(store.create(name, pattern(3, 0), Class::bulk)).has_value());
    }
    using Names = std::vector<std::string>;
    CHECK(*world.run(store.list("manifest/", "", 1)) == Names{"manifest/fe"});
    CHECK(*world.run(store.list("log/", "", 100)) ==
          Names{"log/000001/00", "log/000001/01", "log/000002/00"});
    CHECK(*world.run(store.list("log", "", 100)) ==
          Names{"log/000001/00", "log/000001/01", "log/000002/00", "logs"});
    CHECK(*world.run(store.list("log/000001/", "log/000001/00", 100)) == Names{"log/000001/01"});
    CHECK(*world.run(store.list("log/0000", "log/000001/00", 1)) == Names{"log/000001/01"});
    CHECK(world.run(store.list("nothing/", "", 100))->empty());
    CHECK(world.run(store.list("", "", 100))->size() == 7);
  });
}

TEST_CASE("the probe accepts these stores") {
  on_each_store([](World& world, ObjectStore& store) {
    ProbeReport report;
    CHECK(world.run(probe_thoroughly(world.runtime(), store, &report)).has_value());
    CHECK(report.size() == 5);
    CHECK(world.run(store.list("probe/", "", 100))->empty());
    CHECK(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
    CHECK(world.run(store.list("probe/", "", 100)) == std::vector<std::string>{"probe/here"});
    CHECK(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
  });
}

// A store that forgets to check: the last create wins.
class Overwriting final : public ObjectStore {
 public:
  explicit Overwriting(ObjectStore& inner) : inner_(inner) {}
  Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) override {
    return inner_.read(name, offset, out, klass);
  }
  Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) override {
    return inner_.read_suffix(name, bytes_max, klass);
  }
  Task<> create(std::string name, Bytes body, Class klass) override {
    co_await inner_.remove(name);
    const Result<> made = co_await as_result(inner_.create(name, body, klass));
    if (!made) co_await inner_.remove(name);
    co_return {};
  }
  Task<> remove(std::string name) override { return inner_.remove(name); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    return inner_.list(prefix, after, count);
  }

 private:
  ObjectStore& inner_;
};

TEST_CASE("the probe refuses a store that overwrites") {
  World world;
  const std::unique_ptr<ObjectStore> inner = world.memory();
  Overwriting store(*inner);
  const Result<> thorough = world.run(probe_thoroughly(world.runtime(), store));
  REQUIRE_FALSE(thorough.has_value());
  CHECK(thorough.error().code() != Code::precondition);
  const Result<> quick = world.run(probe_at_start(world.runtime(), store, "here"));
  REQUIRE_FALSE(quick.has_value());
  CHECK(quick.error().code() == Code::invalid);
}

TEST_CASE("a start costs two requests where the store is known, a thorough probe elsewhere") {
  World world;
  MemoryStore store(world.runtime().executor);
  REQUIRE(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
  u64 before = store.counters().requests();
  REQUIRE(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
  CHECK(store.counters().requests() - before == 2);
  before = store.counters().requests();
  REQUIRE(world.run(probe_at_start(world.runtime(), store, "elsewhere")).has_value());
  CHECK(store.counters().requests() - before > 64);
}

// Wrong in one way each.
class Lying final : public ObjectStore {
 public:
  enum class Lie : u8 { lists_late, suffix_from_front, short_reads, changes_what_exists };
  Lying(ObjectStore& inner, Lie lie) : inner_(inner), lie_(lie) {}
  Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) override {
    const Result<> got = co_await as_result(inner_.read(name, offset, out, klass));
    if (!got && got.error().code() == Code::corrupt && lie_ == Lie::short_reads) co_return {};
    co_return got;
  }
  Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) override {
    Tail tail = co_await inner_.read_suffix(name, bytes_max, klass);
    if (lie_ == Lie::suffix_from_front) {
      co_await inner_.read(name, 0, {tail.bytes.data(), tail.bytes.size()}, klass);
    }
    co_return std::move(tail);
  }
  Task<> create(std::string name, Bytes body, Class klass) override {
    const Result<> made = co_await as_result(inner_.create(name, body, klass));
    if (!made && lie_ == Lie::changes_what_exists && body.size() < 1000) {
      co_await inner_.remove(name);
      co_await inner_.create(name, body, klass);
    }
    co_return made;
  }
  Task<> remove(std::string name) override { return inner_.remove(name); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    std::vector<std::string> names = co_await inner_.list(prefix, after, count);
    if (lie_ == Lie::lists_late && !names.empty()) names.pop_back();
    co_return std::move(names);
  }

 private:
  ObjectStore& inner_;
  Lie lie_;
};

// Every reply to a create is lost once; the client's second try meets the object.
class Forgetful final : public ObjectStore {
 public:
  explicit Forgetful(ObjectStore& inner) : inner_(inner) {}
  Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) override {
    return inner_.read(name, offset, out, klass);
  }
  Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) override {
    return inner_.read_suffix(name, bytes_max, klass);
  }
  Task<> create(std::string name, Bytes body, Class klass) override {
    static_cast<void>(co_await as_result(inner_.create(name, body, klass)));
    co_return fail(Code::precondition, "exists");
  }
  Task<> remove(std::string name) override { return inner_.remove(name); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    return inner_.list(prefix, after, count);
  }

 private:
  ObjectStore& inner_;
};

TEST_CASE("the probe does not take lost replies for lies") {
  World world;
  const std::unique_ptr<ObjectStore> inner = world.memory();
  Forgetful store(*inner);
  CHECK(world.run(probe_thoroughly(world.runtime(), store)).has_value());
  CHECK(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
}

TEST_CASE("the probe refuses a store that lies, whatever about") {
  for (const Lying::Lie lie : {Lying::Lie::lists_late, Lying::Lie::suffix_from_front,
                               Lying::Lie::short_reads, Lying::Lie::changes_what_exists}) {
    CAPTURE(static_cast<int>(lie));
    World world;
    const std::unique_ptr<ObjectStore> inner = world.memory();
    Lying store(*inner, lie);
    const Result<> thorough = world.run(probe_thoroughly(world.runtime(), store));
    REQUIRE_FALSE(thorough.has_value());
    CHECK(thorough.error().code() == Code::invalid);
    CHECK_FALSE(world.run(probe_at_start(world.runtime(), store, "here")).has_value());
  }
}

TEST_CASE("names") {
  for (const char* good : {"a", "log/000001/00", "a.b", "a-b_c/9"}) CHECK(is_valid_name(good));
  for (const char* bad : {"", "/a", "a/", "a//b", ".", "a/.b", "..", "A", "a b", "a\n"}) {
    CHECK_FALSE(is_valid_name(bad));
  }
  CHECK_FALSE(is_valid_name(std::string(201, 'a')));
}

TEST_CASE("temporary files of a writer that died are not objects") {
  World world;
  const std::unique_ptr<ObjectStore> store = world.file();
  REQUIRE(world.run(store->create("log/a", pattern(5, 0), Class::log)).has_value());
  std::ofstream(world.path() + "/store/log/.tmp-1-2") << "half";
  CHECK(*world.run(store->list("log/", "", 10)) == std::vector<std::string>{"log/a"});
}

TEST_CASE("store URLs") {
  CHECK(parse_store_url("file:///a/b/")->path == "/a/b");
  CHECK(parse_store_url("file:///a/../b")->canonical == "file:///b");
  CHECK_FALSE(parse_store_url("file://a").has_value());
  CHECK_FALSE(parse_store_url("s3://bucket").has_value());
  CHECK_FALSE(parse_store_url("/a").has_value());
}

}  // namespace
}  // namespace zerofs::store
