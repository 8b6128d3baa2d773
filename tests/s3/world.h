// A store over a real reactor, and a way to run one task to its end.
#pragma once

#include <algorithm>

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "s3/s3_store.h"

namespace zerofs::s3::test {

class World {
 public:
  World() : pool_({.threads = 2}), reactor_(make_reactor(pool_)) {}

  template <class T>
  Result<T> run(Task<T> task) {
    return run_until_done(*reactor_, std::move(task));
  }
  Runtime runtime() { return {*reactor_, *reactor_, random_}; }
  Reactor& reactor() { return *reactor_; }
  std::unique_ptr<S3Store> start(Config config) {
    Result<std::unique_ptr<S3Store>> made = S3Store::start(std::move(config), runtime(), *reactor_);
    INVARIANT(made.has_value());
    return std::move(*made);
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
};

// Bytes that compress badly and differ at every place.
inline Buffer pattern(u64 bytes, u64 seed = 1) {
  Buffer out(bytes);
  u64 x = seed * 0x9e3779b97f4a7c15;
  for (u64 i = 0; i < bytes; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    out.data()[i] = static_cast<std::byte>(x);
  }
  return out;
}

inline bool same(Bytes a, Bytes b) {
  return std::ranges::equal(a, b);
}

}  // namespace zerofs::s3::test
