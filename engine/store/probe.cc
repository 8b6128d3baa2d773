#include "engine/store/probe.h"

#include <fmt/format.h>

#include <algorithm>

namespace zerofs::store {

namespace {

constexpr u32 kRacers = 16;
constexpr u32 kRounds = 4;
constexpr u32 kBodyBytes = 1000;

Task<> create_one(ObjectStore& store, std::string name, u8 racer, std::optional<Result<>>& out) {
  Buffer body(kBodyBytes);
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
  // Without a winner the reply of the one that won was lost, and its second try met its own object.
  const Result<Tail> body =
      co_await as_result(store.read_suffix(name, 2 * kBodyBytes, Class::foreground));
  if (!body && body.error().code() == Code::not_found && unclear == 0) {
    co_return invalid("the store is unsafe: of racing creates of a new name none succeeded");
  }
  if (!body) co_return std::unexpected(body.error());
  const bool whole = body->object_bytes == kBodyBytes && body->bytes.size() == kBodyBytes;
  const bool pure = whole && std::ranges::all_of(body->bytes.bytes(), [&](std::byte b) {
                      return b == body->bytes.bytes().front();
                    });
  if (!pure || (winners == 1 && body->bytes.bytes().front() != std::byte(winner))) {
    co_return invalid("the store is unsafe: an object does not hold what its creator wrote");
  }
  co_return {};
}

Task<> check_existing(ObjectStore& store, const std::string& name) {
  const Tail before = co_await store.read_suffix(name, kBodyBytes, Class::foreground);
  Buffer other(kBodyBytes / 2);
  std::memset(other.data(), 0xff, other.size());
  const Result<> over = co_await as_result(store.create(name, other, Class::foreground));
  if (over) {
    co_return invalid("the store is unsafe: it let a create overwrite an existing object");
  }
  // Whatever a failed create answers, it must not have touched the object.
  const Tail after = co_await store.read_suffix(name, kBodyBytes, Class::foreground);
  if (!std::ranges::equal(before.bytes.bytes(), after.bytes.bytes())) {
    co_return invalid("the store is unsafe: a refused create changed the object that it found");
  }
  if (over.error().code() != Code::precondition) co_return over;
  co_return {};
}

// An object of which every byte says where it is.
Task<> check_reads(ObjectStore& store, std::string name) {
  Buffer body(kBodyBytes);
  for (u32 i = 0; i < kBodyBytes; ++i) body.data()[i] = std::byte(i * 7 + i / 256);
  const Result<> made = co_await as_result(store.create(name, body, Class::foreground));
  // The name is new: "exists" is our own lost reply.
  if (!made && made.error().code() != Code::precondition) co_return made;

  const Tail tail = co_await store.read_suffix(name, 10, Class::foreground);
  const bool last_ten = tail.object_bytes == kBodyBytes &&
                        std::ranges::equal(tail.bytes.bytes(), body.bytes().last(10));
  if (!last_ten) {
    co_return invalid("the store is unusable: a suffix read does not give the last bytes");
  }
  const Tail all = co_await store.read_suffix(name, 10 * kBodyBytes, Class::foreground);
  if (!std::ranges::equal(all.bytes.bytes(), body.bytes())) {
    co_return invalid(
        "the store is unusable: a suffix longer than the object does not give it all");
  }
  Buffer middle(300);
  co_await store.read(name, 400, middle, Class::foreground);
  if (!std::ranges::equal(middle.bytes(), body.bytes().subspan(400, 300))) {
    co_return invalid("the store is unusable: a range read gives other bytes");
  }
  for (const u64 offset : {u64{kBodyBytes} - 100, u64{kBodyBytes}, u64{kBodyBytes} + 100}) {
    const Result<> past = co_await as_result(store.read(name, offset, middle, Class::foreground));
    if (past) {
      co_return invalid("the store is unusable: a read past the end of an object did not fail");
    }
    if (past.error().code() != Code::corrupt) co_return past;
  }
  const Result<Tail> absent =
      co_await as_result(store.read_suffix(name + "-not", 10, Class::foreground));
  if (absent) co_return invalid("the store is unusable: it reads an object that was never made");
  if (absent.error().code() != Code::not_found) co_return std::unexpected(absent.error());
  co_return {};
}

Task<> list_one(ObjectStore& store, std::string prefix, u32 expected, std::optional<Error>& out) {
  const Result<std::vector<std::string>> names = co_await as_result(store.list(prefix, "", 100));
  if (!names) {
    out = names.error();
  } else if (names->size() != expected || !std::ranges::is_sorted(*names)) {
    out = Error(Code::invalid,
                "the store is unusable: a listing does not show in order what was just written");
  }
  co_return {};
}

// Listings at once go over several connections, so others than the one that wrote are among them.
Task<> check_listings(Runtime runtime, ObjectStore& store, std::string prefix, u32 expected) {
  std::optional<Error> errors[kRacers];
  Gate gate(runtime.executor);
  for (std::optional<Error>& error : errors) {
    gate.spawn(list_one(store, prefix, expected, error));
  }
  co_await gate.close();
  for (const std::optional<Error>& error : errors) {
    if (error) co_return std::unexpected(*error);
  }
  co_return {};
}

}  // namespace

Task<> probe_thoroughly(Runtime runtime, ObjectStore& store, ProbeReport* report) {
  const auto found = [report](std::string text) {
    if (report != nullptr) report->push_back(std::move(text));
  };
  const std::string prefix = fmt::format("probe/{:016x}-", runtime.random.next());
  for (u32 round = 0; round < kRounds; ++round) {
    co_await race(runtime, store, fmt::format("{}{}", prefix, round));
  }
  found(fmt::format("of {} racing creates of one name exactly one succeeds ({} rounds)", kRacers,
                    kRounds));
  co_await check_existing(store, prefix + "0");
  found("a create over an existing object is refused and leaves it alone");
  co_await check_reads(store, prefix + "r");
  found("ranges and suffixes give the right bytes, and errors past the end");
  co_await check_listings(runtime, store, prefix, kRounds + 1);
  found("listings show at once and in order what was written");
  const std::vector<std::string> made = co_await store.list(prefix, "", 100);
  for (const std::string& name : made) co_await store.remove(name);
  const std::vector<std::string> left = co_await store.list(prefix, "", 100);
  if (!left.empty()) co_return invalid("the store is unusable: a removed object is still listed");
  found("what is removed is gone");
  co_return {};
}

Task<> probe_at_start(Runtime runtime, ObjectStore& store, std::string place) {
  static constexpr std::byte kBody[1] = {std::byte{1}};
  const std::string name = "probe/" + place;
  const Result<Tail> known = co_await as_result(store.read_suffix(name, 1, Class::foreground));
  if (!known && known.error().code() != Code::not_found) co_return std::unexpected(known.error());
  if (!known) co_await probe_thoroughly(runtime, store);
  // A new name is made by the first create; the one after it must be refused.
  for (u32 tries = 0; tries < 2; ++tries) {
    const Result<> created = co_await as_result(store.create(name, kBody, Class::foreground));
    if (!created) {
      if (created.error().code() == Code::precondition) co_return {};
      co_return created;
    }
    if (known) break;
  }
  co_return invalid("the store is unsafe: it let a create overwrite an existing object");
}

}  // namespace zerofs::store
