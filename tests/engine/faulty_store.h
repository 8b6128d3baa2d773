// A store that misbehaves as networks do: an operation may fail before it took effect, or take effect
// and lose its reply; a create over an existing object may be answered with anything but success.
#pragma once

#include <random>

#include "engine/store/object_store.h"

namespace zerofs::test {

class FaultyStore final : public store::ObjectStore {
 public:
  FaultyStore(store::ObjectStore& inner, u64 seed) : inner_(inner), random_(seed) {}

  u32 percent = 0;  // of operations that misbehave, half before and half after their effect
  u64 lost_replies = 0;

  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override {
    if (strikes()) co_return fail(Code::retry, "fault: read");
    co_await inner_.read(name, offset, out, klass);
    co_return {};
  }
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override {
    if (strikes()) co_return fail(Code::retry, "fault: read");
    co_return co_await inner_.read_suffix(name, bytes_max, klass);
  }
  Task<> create(std::string name, Bytes body, store::Class klass) override {
    if (strikes()) co_return fail(Code::retry, "fault: before the create");
    const bool lose = strikes();
    const Result<> made = co_await as_result(inner_.create(name, body, klass));
    if (made && lose) {
      ++lost_replies;
      co_return fail(Code::retry, "fault: the reply is lost");
    }
    // Some stores say 409 where others say 412.
    if (!made && lose) co_return fail(Code::retry, "fault: 409");
    co_return made;
  }
  Task<> remove(std::string name) override { return inner_.remove(name); }
  Task<std::vector<std::string>> list(std::string prefix, std::string after, u32 count) override {
    return inner_.list(prefix, after, count);
  }

 private:
  bool strikes() { return random_() % 200 < percent; }
  store::ObjectStore& inner_;
  std::mt19937_64 random_;
};

}  // namespace zerofs::test
