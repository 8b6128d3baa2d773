// file://: a directory as an object store, for embedded use and as the fastest durable back end.
//
// An object appears whole or not at all: it is written without a name (O_TMPFILE), synced, and then
// linked to its name, where EEXIST is "exists already"; the directory is synced before the create
// is reported. File systems without O_TMPFILE get a temporary name instead. All of one operation
// is one job of a store thread; large bodies bypass the page cache of the kernel (O_DIRECT), which
// would only hold ciphertext that nobody reads soon.
#pragma once

#include <atomic>
#include <mutex>
#include <unordered_map>

#include "engine/base/sync.h"
#include "engine/base/worker_pool.h"
#include "engine/store/counters.h"
#include "engine/store/object_store.h"

namespace zerofs::store {

class FileStore final : public ObjectStore {
 public:
  enum class IfMissing : u8 { create, fail };

  // `threads` runs the system calls, completions go to `mailbox`; both outlive the store.
  // Errors: not_found (no directory there), denied, invalid.
  static Result<std::unique_ptr<FileStore>> open(std::string path, IfMissing if_missing,
                                                 WorkerPool& threads, Mailbox& mailbox);
  ~FileStore() override;

  Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) override;
  Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) override;
  Task<> create(std::string name, Bytes body, Class klass) override;
  Task<> remove(std::string name) override;
  Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                      u32 count_max) override;

  const StoreCounters& counters() const { return counters_; }

 private:
  class Fd;  // closes itself
  using Directory = std::shared_ptr<const Fd>;

  FileStore(Directory root, WorkerPool& threads, Mailbox& mailbox)
      : root_(std::move(root)), threads_(threads), mailbox_(mailbox) {}
  template <class Function>
  class Work;
  template <class Function>
  Work<Function> work(Class klass, Function function);

  // All of these run on store threads.
  Result<Directory> directory(const std::string& path, IfMissing if_missing);
  Result<> create_now(const std::string& name, Bytes body);
  Result<> publish_unnamed(int directory, const char* base, Bytes body, bool& supported);
  Result<> publish_named(int directory, const char* base, Bytes body);
  Result<> read_now(const std::string& name, u64 offset, MutableBytes out);
  Result<Tail> read_suffix_now(const std::string& name, u64 bytes_max);
  Result<> remove_now(const std::string& name);
  Result<std::vector<std::string>> list_now(const std::string& prefix, const std::string& after,
                                            u32 count_max);

  Directory root_;
  WorkerPool& threads_;
  Mailbox& mailbox_;
  StoreCounters counters_;
  std::mutex directories_mutex_;
  std::unordered_map<std::string, Directory> directories_;  // open ones, by path
  std::atomic<bool> has_tmpfile_ = true;
  std::atomic<u64> next_temporary_ = 0;
};

}  // namespace zerofs::store
