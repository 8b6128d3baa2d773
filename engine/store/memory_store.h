// memory://: objects in RAM, gone with the process. For tests and for trying things out.
#pragma once

#include <map>

#include "engine/base/sync.h"
#include "engine/store/counters.h"
#include "engine/store/object_store.h"

namespace zerofs::store {

class MemoryStore final : public ObjectStore {
 public:
  explicit MemoryStore(Executor& executor) : executor_(executor) {}

  Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) override;
  Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) override;
  Task<> create(std::string name, Bytes body, Class klass) override;
  Task<> remove(std::string name) override;
  Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                      u32 count_max) override;

  const StoreCounters& counters() const { return counters_; }
  // The objects themselves, for tests that damage them.
  std::map<std::string, Buffer>& objects() { return objects_; }

 private:
  // Every operation suspends once, as with a store that is elsewhere.
  struct Turn {
    Executor& executor;
    bool await_ready() { return false; }
    void await_suspend(std::coroutine_handle<> handle) { executor.post(handle); }
    void await_resume() {}
  };

  Executor& executor_;
  std::map<std::string, Buffer> objects_;
  StoreCounters counters_;
};

}  // namespace zerofs::store
