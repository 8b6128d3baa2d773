#include "engine/store/probe.h"

#include <fmt/format.h>

#include <algorithm>

namespace zerofs::store {

namespace {

constexpr u32 kRacers = 16;
constexpr u32 kRounds = 4;
constexpr const char* kExistingName = "probe/exists";

Task<> create_one(ObjectStore& store, std::string name, u8 racer, std::optional<Result<>>& out) {
  Buffer body(1000);
  std::memset(body.data(), racer, body.size());
  out.emplace(co_await as_result(store.create(name, body, Class::foreground)));
  co_return {};
}

Task<> race(Runtime runtime, ObjectStore& store, std::string name) {
  std::optional<Result<>> outcomes[kRacers];
  Gate gate(runtime.executor);
  for (u32 i = 0; i < kRacers; ++i) {
    gate.spawn(create_one(store, name, static_cast<u8>(i), outcomes[i]));
  }
  co_await gate.close();
  u32 winners = 0;
  u32 unclear = 0;
  u32 winner = 0;
  for (u32 i = 0; i < kRacers; ++i) {
    const Result<>& outcome = *outcomes[i];
    if (outcome) {
      ++winners;
      winner = i;
    } else if (outcome.error().code() != Code::precondition) {
      if (outcome.error().code() == Code::denied || outcome.error().code() == Code::no_space) {
        co_return outcome;
      }
      ++unclear;
    }
  }
  if (winners > 1) {
    co_return invalid("the store is unsafe: of racing creates of one name more than one succeeded",
                      winners);
  }
  if (winners == 0 && unclear == 0) {
    co_return invalid("the store is unsafe: of racing creates of a new name none succeeded");
  }
  const Tail body = co_await store.read_suffix(name, 2000, Class::foreground);
  const bool whole = body.object_bytes == 1000 && body.bytes.size() == 1000;
  const bool pure = whole && std::ranges::all_of(body.bytes.bytes(), [&](std::byte b) {
                      return b == body.bytes.bytes().front();
                    });
  if (!pure || (winners == 1 && body.bytes.bytes().front() != std::byte(winner))) {
    co_return invalid("the store is unsafe: an object does not hold what its creator wrote");
  }
  co_return {};
}

}  // namespace

Task<> probe_thoroughly(Runtime runtime, ObjectStore& store) {
  const std::string prefix = fmt::format("probe/{:016x}-", runtime.random.next());
  for (u32 round = 0; round < kRounds; ++round) {
    co_await race(runtime, store, fmt::format("{}{}", prefix, round));
  }
  const std::string name = prefix + "0";
  const Tail tail = co_await store.read_suffix(name, 10, Class::foreground);
  if (tail.object_bytes != 1000 || tail.bytes.size() != 10) {
    co_return invalid("the store is unusable: a suffix read does not give the last bytes");
  }
  Buffer beyond(600);
  const Result<> past =
      co_await as_result(store.read(name, 500, beyond, Class::foreground));
  if (past || past.error().code() != Code::corrupt) {
    co_return invalid("the store is unusable: a read past the end of an object did not fail");
  }
  const std::vector<std::string> names = co_await store.list(prefix, "", 100);
  if (names.size() != kRounds) {
    co_return invalid("the store is unusable: a listing does not show what was just written");
  }
  for (const std::string& made : names) co_await store.remove(made);
  co_return {};
}

Task<> probe_at_start(Runtime, ObjectStore& store) {
  static constexpr std::byte kBody[1] = {std::byte{1}};
  for (u32 tries = 0; tries < 2; ++tries) {
    const Result<> created =
        co_await as_result(store.create(kExistingName, kBody, Class::foreground));
    if (!created) {
      if (created.error().code() == Code::precondition) co_return {};
      co_return created;
    }
    // The first time the name is new; the second create must be refused.
  }
  co_return invalid("the store is unsafe: it let a create overwrite an existing object");
}

}  // namespace zerofs::store
