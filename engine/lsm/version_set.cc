#include "engine/lsm/version_set.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/base/mutant.h"
#include "engine/store/backoff.h"
#include "engine/store/patience.h"

namespace zerofs::lsm {

namespace {

constexpr u64 kManifestBytesMax = 256 * kMiB;
constexpr u32 kTriesBeforeLook = 3;
constexpr u32 kLevelsMax = 16;

format::TermRecord* find_term(format::Manifest& manifest, Term term) {
  for (format::TermRecord& record : manifest.terms) {
    if (record.term == term) return &record;
  }
  return nullptr;
}

struct Apply {
  format::Manifest& next;

  bool operator()(const TakeTerm& take) {
    if (take.record.term.value != next.last_term.value + 1 && !MUTANT(take_term_unchecked)) {
      return false;
    }
    next.last_term = take.record.term;
    next.terms.push_back(take.record);
    return true;
  }
  bool operator()(const SealTerm& seal) {
    format::TermRecord* record = find_term(next, seal.term);
    if (record == nullptr || record->end || seal.end < record->replay_from) return false;
    record->end = seal.end;
    record->closed_cleanly = seal.closed_cleanly;
    return true;
  }
  bool operator()(const FlushMemtable& flush) {
    for (const FlushMemtable::Move& move : flush.moves) {
      format::TermRecord* record = find_term(next, move.term);
      if (record == nullptr || record->replay_from != move.from || move.to < move.from)
        return false;
      if (record->end && move.to > *record->end) return false;
      record->replay_from = move.to;
    }
    if (next.levels.empty()) next.levels.emplace_back();
    auto& level0 = next.levels.front();
    level0.insert(level0.begin(), flush.tables.begin(), flush.tables.end());
    return true;
  }
  bool operator()(const ReplaceTables& replace) {
    if (replace.level >= kLevelsMax) return false;
    if (next.levels.size() <= replace.level) next.levels.resize(replace.level + 1);
    u64 of_level0 = 0;
    for (const ReplaceTables::Place& input : replace.inputs) {
      if (input.level >= next.levels.size()) return false;
      auto& level = next.levels[input.level];
      const auto at = std::ranges::find(level, input.id, &format::TableRecord::id);
      if (at == level.end()) return false;
      // The oldest of level 0: whatever stays is in front of it. Inputs are named newest first.
      if (input.level == 0) ++of_level0;
    }
    if (!take_oldest(next.levels[0], replace, of_level0)) return false;
    for (const ReplaceTables::Place& input : replace.inputs) {
      if (input.level == 0) continue;
      std::erase_if(next.levels[input.level],
                    [&](const format::TableRecord& table) { return table.id == input.id; });
    }
    auto& into = next.levels[replace.level];
    into.insert(into.end(), replace.outputs.begin(), replace.outputs.end());
    if (replace.level == 0) return true;
    std::ranges::sort(into, {}, &format::TableRecord::first_key);
    return std::ranges::adjacent_find(into, [](const auto& a, const auto& b) {
             return a.last_key >= b.first_key;
           }) == into.end();
  }
  static bool take_oldest(std::vector<format::TableRecord>& level0, const ReplaceTables& replace,
                          u64 count) {
    const auto first = level0.end() - static_cast<std::ptrdiff_t>(count);
    for (auto table = first; table != level0.end(); ++table) {
      const ReplaceTables::Place place{0, table->id};
      if (std::ranges::find(replace.inputs, place) == replace.inputs.end()) return false;
    }
    level0.erase(first, level0.end());
    return true;
  }
};

}  // namespace

Result<format::Manifest> apply_edit(const format::Manifest& base, const Edit& edit) {
  format::Manifest next = base;
  ++next.version;
  for (const auto& operation : edit) {
    if (!std::visit(Apply{next}, operation)) {
      return fail(Code::precondition, "manifest: the edit is not valid on version", base.version);
    }
  }
  return next;
}

VersionSet::VersionSet(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys)
    : runtime_(runtime), store_(store), keys_(keys), turn_(runtime.executor) {}

Task<> VersionSet::create() {
  const std::vector<std::string> names = co_await store_.list(format::kManifestPrefix, "", 1);
  if (!names.empty()) co_return fail(Code::precondition, "a database exists there already");
  format::Manifest first;
  first.version = 1;
  first.database = keys_.database();
  first.created_unix_seconds = static_cast<u64>(
      std::chrono::duration_cast<std::chrono::seconds>(runtime_.clock.wall().time_since_epoch())
          .count());
  std::byte nonce[24];
  runtime_.random.fill(nonce);
  const Buffer body = format::encode_manifest(keys_, first, nonce);
  const Outcome outcome = co_await create_version(1, body);
  if (outcome == Outcome::exists) {
    co_return fail(Code::precondition, "a database exists there already");
  }
  current_ = std::move(first);
  co_return {};
}

// With patience: an opener has nothing better to do, and starting over costs it another term.
Task<> VersionSet::load() {
  store::Backoff backoff(50ms, 5s, runtime_.random);
  for (u32 tries = 1;; ++tries) {
    const Result<> adopted = co_await as_result(adopt_newest());
    if (adopted) co_return {};
    if (adopted.error().code() != Code::retry || tries == store::kPatientTriesMax) {
      co_return adopted;
    }
    co_await sleep_for(runtime_, backoff.next());
  }
}

// LIST of one key finds the newest where LIST is strong; where it lags, probing upwards finds what
// it missed.
Task<u64> VersionSet::newest_version() {
  const std::vector<std::string> names = co_await store_.list(format::kManifestPrefix, "", 1);
  if (names.empty()) co_return fail(Code::not_found, "no database there (no manifest)");
  const std::optional<u64> version = format::manifest_version_of(names.front());
  if (!version) {
    spdlog::error("manifest: foreign object {}", names.front());
    co_return corrupt("manifest: a foreign object lies under manifest/");
  }
  co_return *version;
}

Task<format::Manifest> VersionSet::read(u64 version) {
  const std::string name = format::manifest_name(version);
  const store::Tail tail =
      co_await store_.read_suffix(name, kManifestBytesMax, store::Class::foreground);
  Result<format::Manifest> manifest = format::decode_manifest(keys_, version, tail.bytes);
  if (!manifest) {
    spdlog::error("manifest: cannot use {}: {}", name, manifest.error().text());
    co_return std::unexpected(manifest.error());
  }
  co_return std::move(*manifest);
}

Task<> VersionSet::adopt_newest() {
  const u64 listed = co_await newest_version();
  format::Manifest newest = co_await read(listed);
  for (;;) {
    Result<format::Manifest> next = co_await as_result(read(newest.version + 1));
    if (!next) {
      if (next.error().code() == Code::not_found) break;
      co_return std::unexpected(next.error());
    }
    newest = std::move(*next);
  }
  current_ = std::move(newest);
  co_return {};
}

Task<bool> VersionSet::is_superseded() {
  const u64 newest = co_await newest_version();
  const format::Manifest manifest = co_await read(newest);
  co_return term_&& manifest.last_term > *term_;
}

Task<bool> VersionSet::is_gone(u64 version) {
  const std::string name = format::gone_name(version / format::kManifestsPerBlock);
  store::Backoff backoff(50ms, 5s, runtime_.random);
  for (;;) {
    Result<store::Tail> marker =
        co_await as_result(store_.read_suffix(name, 1, store::Class::foreground));
    if (marker) co_return true;
    if (marker.error().code() == Code::not_found) co_return false;
    if (abandoned_) co_return fail(Code::cancelled, "manifest: commit abandoned");
    co_await sleep_for(runtime_, backoff.next());
  }
}

// Repeats the create until its outcome is known.
Task<VersionSet::Outcome> VersionSet::create_version(u64 version, Bytes body) {
  const std::string name = format::manifest_name(version);
  store::Backoff backoff(50ms, 5s, runtime_.random);
  for (u32 tries = 1;; ++tries) {
    Result<> created = co_await as_result(store_.create(name, body, store::Class::foreground));
    if (created) co_return Outcome::committed;
    if (created.error().code() == Code::precondition || tries % kTriesBeforeLook == 0) {
      Result<store::Tail> seen = co_await as_result(
          store_.read_suffix(name, kManifestBytesMax, store::Class::foreground));
      if (seen && std::ranges::equal(seen->bytes.bytes(), body)) co_return Outcome::committed;
      // Another's manifest proves itself. What does not may be our own, damaged on its way: to take
      // that for another's would apply the edit twice.
      if (seen && format::decode_manifest(keys_, version, seen->bytes)) co_return Outcome::exists;
    }
    if (tries == kTriesBeforeLook) {
      spdlog::warn("manifest: cannot write {}: {} ({}); retrying", name, created.error().text(),
                   code_name(created.error().code()));
    }
    if (abandoned_) co_return fail(Code::cancelled, "manifest: commit abandoned");
    co_await sleep_for(runtime_, backoff.next());
  }
}

Task<> VersionSet::commit(Edit edit) {
  while (committing_) co_await turn_.wait();
  committing_ = true;
  struct Done {
    VersionSet& set;
    ~Done() {
      set.committing_ = false;
      set.turn_.wake_all();
    }
  } done{*this};

  for (;;) {
    if (abandoned_) co_return fail(Code::cancelled, "manifest: commit abandoned");
    if (term_ && current_.last_term > *term_ && !MUTANT(commit_ignores_newer_term)) {
      co_return fail(Code::fenced, "a newer writer owns the database, term",
                     current_.last_term.value);
    }
    format::Manifest next = co_await apply_edit(current_, edit);
    std::byte nonce[24];
    runtime_.random.fill(nonce);
    const Buffer body = format::encode_manifest(keys_, next, nonce);
    const Outcome outcome = co_await create_version(next.version, body);
    if (outcome == Outcome::committed) {
      const bool gone = co_await is_gone(next.version);
      if (!gone) {
        current_ = std::move(next);
        co_return {};
      }
    }
    // Somebody else committed meanwhile, or our base was ancient.
    store::Backoff backoff(50ms, 5s, runtime_.random);
    for (;;) {
      Result<> adopted = co_await as_result(adopt_newest());
      if (adopted) break;
      if (adopted.error().code() == Code::corrupt) co_return std::unexpected(adopted.error());
      if (abandoned_) co_return fail(Code::cancelled, "manifest: commit abandoned");
      co_await sleep_for(runtime_, backoff.next());
    }
  }
}

}  // namespace zerofs::lsm
