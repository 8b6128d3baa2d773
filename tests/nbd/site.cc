#include "tests/nbd/site.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <future>

namespace zerofs::nbd::test {

// ---- the store

Task<> StallingStore::read(std::string name, u64 offset, MutableBytes out, store::Class klass) {
  return inner_.read(std::move(name), offset, out, klass);
}
Task<store::Tail> StallingStore::read_suffix(std::string name, u64 bytes_max, store::Class klass) {
  return inner_.read_suffix(std::move(name), bytes_max, klass);
}
Task<> StallingStore::create(std::string name, Bytes body, store::Class klass) {
  ++waiting_;
  while (stalled_) co_await changed_.wait();
  --waiting_;
  co_return co_await as_result(inner_.create(std::move(name), body, klass));
}
Task<> StallingStore::remove(std::string name) {
  return inner_.remove(std::move(name));
}
Task<std::vector<std::string>> StallingStore::list(std::string prefix, std::string after,
                                                   u32 count_max) {
  return inner_.list(std::move(prefix), std::move(after), count_max);
}

// ---- the site

namespace {

// Delivered to the reactor by another thread.
struct Step final : Job {
  void run() override {}
  void finish() override { step(); }
  std::function<void()> step;
};

struct Countdown {
  u32 left;
  Event event;
};

Task<> wait_for(Countdown& countdown) {
  while (countdown.left != 0) co_await countdown.event.wait();
  co_return {};
}

}  // namespace

Site::Site(ServerOptions given) : options(std::move(given)) {
  path = "/tmp/zerofs-nbd-test-" + std::to_string(getpid()) + ".sock";
  world.create();
  open();
}

Site::~Site() {
  close_server();
  volumes.reset();
  CHECK(run(db->close()).has_value());
}

void Site::open() {
  Result<std::unique_ptr<Db>> opened =
      run(Db::open(world.runtime(), store, world.keys(), world.options()));
  REQUIRE(opened.has_value());
  db = std::move(*opened);
  Result<std::unique_ptr<VolumeSet>> loaded = run(VolumeSet::open(world.runtime(), *db));
  REQUIRE(loaded.has_value());
  volumes = std::move(*loaded);
  server = std::make_unique<Server>(world.reactor(), world.runtime(), *db, *volumes, options);
  REQUIRE(server->listen({.unix_path = path, .host = {}}).has_value());
  const Result<ListenAddress> tcp =
      server->listen({.unix_path = {}, .host = "127.0.0.1", .port = 0});
  REQUIRE(tcp.has_value());
  port = tcp->port;
}

void Site::close_server() {
  CHECK(run(server->shutdown()).has_value());
  server.reset();
}

void Site::crash() {
  close_server();
  volumes.reset();
  db->abandon();
  static_cast<void>(run(db->close()));  // fails: it was abandoned
  db.reset();
}

void Site::create_volume(const std::string& name, u64 size) {
  REQUIRE(run(volumes->create(name, size)).has_value());
}

void Site::clients(std::vector<std::function<void()>> scripts) {
  Countdown countdown{.left = static_cast<u32>(scripts.size()), .event = Event(world.reactor())};
  std::vector<Step> ends(scripts.size());
  std::vector<std::string> failures(scripts.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < scripts.size(); ++i) {
    ends[i].step = [&] {
      --countdown.left;
      countdown.event.wake_all();
    };
    threads.emplace_back([&, i] {
      try {
        scripts[i]();
      } catch (const std::exception& error) {
        failures[i] = error.what();
      }
      world.reactor().deliver(ends[i]);
    });
  }
  CHECK(run(wait_for(countdown)).has_value());
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) CHECK(failure == "");
}

void Site::on_server(std::function<void()> step) {
  std::promise<void> done;
  Step job;
  job.step = [&] {
    step();
    done.set_value();
  };
  world.reactor().deliver(job);
  done.get_future().wait();
}

}  // namespace zerofs::nbd::test
