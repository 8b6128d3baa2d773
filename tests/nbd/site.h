// A server on a real database on a store in memory, and clients on threads of their own.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "nbd/server.h"
#include "tests/engine/world.h"
#include "tests/nbd/client.h"

namespace zerofs::nbd::test {

// A memory store whose uploads of log objects wait while it is stalled.
class StallingStore final : public store::ObjectStore {
 public:
  StallingStore(Executor& executor, store::ObjectStore& inner)
      : changed_(executor), inner_(inner) {}

  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override;
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override;
  Task<> create(std::string name, Bytes body, store::Class klass) override;
  Task<> remove(std::string name) override;
  Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                      u32 count_max) override;

  void stall(bool stalled) {
    stalled_ = stalled;
    if (!stalled) changed_.wake_all();
  }
  u32 waiting() const { return waiting_; }

 private:
  Event changed_;
  store::ObjectStore& inner_;
  bool stalled_ = false;
  u32 waiting_ = 0;
};

class Site {
 public:
  explicit Site(ServerOptions options = {});
  ~Site();

  // Runs `script` on its own thread while the server serves. An exception fails the test.
  void client(std::function<void()> script) { clients({std::move(script)}); }
  void clients(std::vector<std::function<void()>> scripts);
  // From a client's thread: runs `step` on the server's thread and waits for its end.
  void on_server(std::function<void()> step);

  template <class T>
  Result<T> run(Task<T> task) {
    return world.run(std::move(task));
  }
  void open();
  // As a crash: what is not durable is lost. Sessions must have ended.
  void crash();
  void create_volume(const std::string& name, u64 size);

  zerofs::test::World world;
  StallingStore store{world.reactor(), world.store()};
  ServerOptions options;
  std::unique_ptr<Db> db;
  std::unique_ptr<VolumeSet> volumes;
  std::unique_ptr<Server> server;
  std::string path;  // of the unix socket
  u16 port = 0;

 private:
  void close_server();
};

}  // namespace zerofs::nbd::test
