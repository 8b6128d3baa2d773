// Host: what every command runs on: worker threads, the reactor, the store, and, once it is opened,
// the database with its volumes.
#pragma once

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "engine/db.h"
#include "nbd/volume.h"
#include "tools/store.h"

namespace zerofs::tools {

class Host {
 public:
  // Threads, the reactor and the store. Errors: printed already.
  static Result<std::unique_ptr<Host>> start(const DatabaseOptions& options,
                                             store::FileStore::IfMissing if_missing,
                                             u32 worker_threads = 0, int worker_niceness = 0);
  ~Host();

  // Creates the database: probes the store, writes the key slot and the first manifest.
  Task<> init();
  // Whether there is a database in the store.
  Task<bool> exists();
  // Unlocks and opens it, and loads the volumes. `role` is what others are told of us.
  Task<> open(std::string role);
  // Volumes, then the database. Errors: what could not be made durable.
  Task<> close();

  template <class T>
  Result<T> run(Task<T> task) {
    return run_until_done(*reactor_, std::move(task));
  }
  Runtime runtime() { return {*reactor_, *reactor_, random_}; }
  Reactor& reactor() { return *reactor_; }
  store::ObjectStore& store() { return *store_.store; }
  const std::string& canonical() const { return store_.canonical; }
  s3::S3Store* s3() { return store_.s3; }  // null unless the store is S3
  Db& db() { return *db_; }
  nbd::VolumeSet& volumes() { return *volumes_; }
  Random& random() { return random_; }

 private:
  Host() = default;
  DatabaseOptions options_;
  SystemRandom random_;
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<WorkerPool> store_threads_;
  std::unique_ptr<Reactor> reactor_;
  OpenStore store_;
  std::unique_ptr<format::DatabaseKeys> keys_;
  std::unique_ptr<Db> db_;
  std::unique_ptr<nbd::VolumeSet> volumes_;
};

// Prints "zerofs: what: why" with what the user can do about it.
void explain(std::string_view what, const Error& error);

}  // namespace zerofs::tools
