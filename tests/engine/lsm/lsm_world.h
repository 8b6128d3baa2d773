// A reactor, workers, a store in memory and keys, for tests of memtable and tables.
#pragma once

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "engine/lsm/table_reader.h"
#include "engine/lsm/table_writer.h"
#include "engine/store/memory_store.h"

namespace zerofs::lsm::test {

class LsmWorld {
 public:
  LsmWorld() : pool_({.threads = 2}), reactor_(make_reactor(pool_)), store_(*reactor_) {
    format::Key key{};
    key.fill(std::byte{7});
    format::DatabaseId id{};
    id.fill(std::byte{9});
    keys_ = std::make_unique<format::DatabaseKeys>(key, id);
    salt_.fill(std::byte{5});
  }

  template <class T>
  Result<T> run(Task<T> task) {
    return run_until_done(*reactor_, std::move(task));
  }
  // Lets everything happen that is ready, and `duration` pass.
  void settle(Duration duration) { INVARIANT(run(sleep_task(runtime(), duration)).has_value()); }
  Runtime runtime() { return {*reactor_, *reactor_, random_}; }
  Executor& executor() { return *reactor_; }
  store::MemoryStore& store() { return store_; }
  const format::DatabaseKeys& keys() { return *keys_; }
  const format::Salt& salt() { return salt_; }

  TableOptions options() {
    return {.keys = *keys_, .salt = salt_, .term = Term{3}, .first_number = 1, .random_seed = 11};
  }
  // Builds and stores tables.
  std::vector<format::TableRecord> put(const Layer& layer, const TableOptions& options) {
    std::vector<format::TableRecord> out;
    for (BuiltTable& table : build_tables(layer, options)) {
      out.push_back(table.record);
      store_.objects()[format::table_name(table.record.id)] = std::move(table.object);
    }
    return out;
  }
  std::unique_ptr<TableReader> reader(const format::TableRecord& record, BlockCache& cache) {
    return std::make_unique<TableReader>(runtime(), store_, *keys_, salt_, record, cache);
  }

 private:
  static Task<> sleep_task(Runtime runtime, Duration duration) {
    co_await sleep_for(runtime, duration);
    co_return {};
  }
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
  format::Salt salt_{};
};

}  // namespace zerofs::lsm::test
