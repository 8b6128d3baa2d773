// A database on a memory store and a real reactor, for tests of the engine.
#pragma once

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "engine/db.h"
#include "engine/store/memory_store.h"

namespace zerofs::test {

class World {
 public:
  World() : pool_({.threads = 2}), reactor_(make_reactor(pool_)), store_(*reactor_) {
    format::Key key{};
    key.fill(std::byte{7});
    format::DatabaseId id{};
    id.fill(std::byte{9});
    keys_ = std::make_unique<format::DatabaseKeys>(key, id);
  }

  template <class T>
  Result<T> run(Task<T> task) {
    return run_until_done(*reactor_, std::move(task));
  }
  Runtime runtime() { return {*reactor_, *reactor_, random_}; }
  Reactor& reactor() { return *reactor_; }
  store::MemoryStore& store() { return store_; }
  const format::DatabaseKeys& keys() { return *keys_; }

  DbOptions options() {
    DbOptions options;
    options.memory_bytes = 64 * kMiB;
    options.owner_is_gone = [](const format::Owner&) { return true; };
    return options;
  }
  void create() { INVARIANT(run(Db::create(runtime(), store_, *keys_)).has_value()); }
  Result<std::unique_ptr<Db>> open() { return open(options()); }
  Result<std::unique_ptr<Db>> open(DbOptions options) {
    return run(Db::open(runtime(), store_, *keys_, std::move(options)));
  }

 private:
  static std::unique_ptr<Reactor> make_reactor(WorkerPool& pool) {
    Result<std::unique_ptr<Reactor>> made = Reactor::create(pool, {});
    INVARIANT(made.has_value());
    return std::move(*made);
  }
  WorkerPool pool_;
  std::unique_ptr<Reactor> reactor_;
  SystemRandom random_;
  store::MemoryStore store_;
  std::unique_ptr<format::DatabaseKeys> keys_;
};

}  // namespace zerofs::test
