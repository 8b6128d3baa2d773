#include "engine/store/patience.h"

#include <spdlog/spdlog.h>

#include "engine/store/backoff.h"

namespace zerofs::store {

namespace {

// Waits before another try, or answers false: the error is final, or patience is over.
class Patience {
 public:
  explicit Patience(Runtime runtime) : runtime_(runtime), backoff_(50ms, 5s, runtime.random) {}

  bool may_pass(const Error& error, const std::string& what) {
    if (error.code() != Code::retry || ++tries_ == kPatientTriesMax) return false;
    if (tries_ == 3) {
      spdlog::warn("cannot read {}: {} ({}); retrying", what, error.text(), error.id());
    }
    return true;
  }
  SleepAwaiter pause() { return sleep_for(runtime_, backoff_.next()); }

 private:
  Runtime runtime_;
  Backoff backoff_;
  u32 tries_ = 0;
};

}  // namespace

Task<> read_patiently(Runtime runtime, ObjectStore& store, std::string name, u64 offset,
                      MutableBytes out, Class klass) {
  Patience patience(runtime);
  for (;;) {
    const Result<> got = co_await as_result(store.read(name, offset, out, klass));
    if (got || !patience.may_pass(got.error(), name)) co_return got;
    co_await patience.pause();
  }
}

Task<Tail> read_suffix_patiently(Runtime runtime, ObjectStore& store, std::string name,
                                 u64 bytes_max, Class klass) {
  Patience patience(runtime);
  for (;;) {
    Result<Tail> got = co_await as_result(store.read_suffix(name, bytes_max, klass));
    if (got || !patience.may_pass(got.error(), name)) co_return std::move(got);
    co_await patience.pause();
  }
}

Task<std::vector<std::string>> list_patiently(Runtime runtime, ObjectStore& store,
                                              std::string prefix, std::string after,
                                              u32 count_max) {
  Patience patience(runtime);
  for (;;) {
    Result<std::vector<std::string>> got = co_await as_result(store.list(prefix, after, count_max));
    if (got || !patience.may_pass(got.error(), prefix)) co_return std::move(got);
    co_await patience.pause();
  }
}

}  // namespace zerofs::store
