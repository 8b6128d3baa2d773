// Compaction in the server (DESIGN section 7): one job at a time, in the background. Inputs are
// read block by block past the cache, a worker merges, outputs are uploaded as they are finished,
// and one manifest commit replaces inputs by outputs. Until then nothing has changed; a crash
// leaves objects that no manifest names.
//
// An input's object is removed when no lookup holds its reader any more. What a crash left behind
// is removed before the first job of a later term: a table of an older term that the manifest does
// not name will never be named, for its writer can commit nothing.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/db_impl.h"
#include "engine/lsm/table_merge.h"
#include "engine/store/backoff.h"

namespace zerofs {

namespace {
constexpr std::size_t kBlocksAtOnce = 64;  // about 1 MiB of one input
constexpr u32 kNamesAtOnce = 1000;
// A command that opens, does one thing and closes does not begin; a server does, with its first
// flush of a memtable or after this.
constexpr Duration kGrace = 10s;
}  // namespace

// Numbers for a job that does not know yet how many tables it will make; each is used at most once.
u64 Db::Impl::take_table_numbers() {
  const u64 first = next_table_;
  if (!MUTANT(table_number_reused)) next_table_ += kTablesPerJobMax;
  return first;
}

// The readers of the tables that the newest manifest names; those that it named before are kept.
Result<> Db::Impl::adopt_tables() {
  std::vector<std::vector<lsm::TableRef>> levels;
  for (const auto& records : versions_.current().levels) {
    std::vector<lsm::TableRef>& level = levels.emplace_back();
    for (const format::TableRecord& record : records) {
      lsm::TableRef reader = tables_->find(record.id);
      if (reader == nullptr) {
        const Result<format::Salt> salt = salt_of(record.id.term);
        if (!salt) {
          spdlog::error("manifest: table {} is of an unknown term", format::table_name(record.id));
          return std::unexpected(salt.error());
        }
        reader =
            std::make_shared<lsm::TableReader>(runtime_, store_, keys_, *salt, record, blocks_);
      }
      level.push_back(std::move(reader));
    }
  }
  if (MUTANT(tables_oldest_first) && !levels.empty()) std::ranges::reverse(levels.front());
  auto next = std::make_shared<const lsm::TableSet>(std::move(levels));
  for (const lsm::TableRef& table : tables_->newest_first()) {
    if (next->find(table->record().id) == nullptr) retired_.push_back(table);
  }
  tables_ = std::move(next);
  return {};
}

Task<> Db::Impl::commit_tables(lsm::Edit edit) {
  const Result<> committed = co_await as_result(versions_.commit(std::move(edit)));
  if (!committed) {
    if (committed.error().code() == Code::fenced) log_fenced();
    co_return committed;
  }
  const Result<> adopted = adopt_tables();
  INVARIANT(adopted);  // every term of its own tables is known
  co_return {};
}

Task<> Db::Impl::compact_tables() {
  store::Backoff backoff(1s, 5s, runtime_.random);
  lsm::CompactionCursors cursors;
  bool swept = false;
  {
    WakeTimer grace(runtime_.executor, compaction_wake_);
    grace.arm(runtime_.clock.now() + kGrace);
    co_await compaction_wake_.wait();
  }
  for (;;) {
    co_await remove_retired();
    if (stop_background_ || fenced_) break;
    const std::optional<lsm::Compaction> job = lsm::pick_compaction(
        versions_.current().levels, options_.level_bytes_base, merged_table_bytes_max(), cursors);
    if (!job) {
      co_await compaction_wake_.wait();
      continue;
    }
    if (!swept) swept = (co_await as_result(remove_orphans())).has_value();
    const Result<> done = co_await as_result(compact(*job));
    compaction_fails_ = !done;
    if (done || stop_background_ || fenced_) continue;
    memtable_wake_.wake_all();
    spdlog::error("compaction failed: {} ({})", done.error().text(),
                  code_name(done.error().code()));
    co_await sleep_for(runtime_, backoff.next());
  }
  co_return {};
}

Task<> Db::Impl::compact(lsm::Compaction job) {
  lsm::ReplaceTables edit{.inputs = job.inputs, .level = job.into, .outputs = {}};
  std::vector<lsm::TableRef> inputs;
  for (const lsm::ReplaceTables::Place& place : job.inputs) {
    inputs.push_back(tables_->find(place.id));
    if (inputs.back() == nullptr) co_return fail(Code::retry, "the manifest changed meanwhile");
  }
  if (job.is_move) {
    edit.outputs = {inputs.front()->record()};
  } else {
    Result<> merged = co_await as_result(merge_tables(job, inputs, edit.outputs));
    if (!merged) co_return std::unexpected(co_await judge_lookup(merged.error()));
  }
  if (MUTANT(remove_before_commit)) {
    for (const lsm::TableRef& input : inputs) {
      static_cast<void>(co_await as_result(store_.remove(input->name())));
    }
  }
  lsm::Edit edits = {std::move(edit)};
  co_await commit_tables(std::move(edits));
  ++compactions_;
  memtable_wake_.wake_all();
  room_.wake_all();
  co_return {};
}

Task<> Db::Impl::merge_tables(const lsm::Compaction& job, std::vector<lsm::TableRef> inputs,
                              std::vector<format::TableRecord>& outputs) {
  if (MUTANT(merge_oldest_wins)) std::ranges::reverse(inputs);
  std::vector<lsm::TableMerge::Input> sources;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    co_await inputs[i]->load();
    sources.push_back({.index = &inputs[i]->index(),
                       .first_key = inputs[i]->record().first_key,
                       .hides = (job.inputs[i].level != job.into || job.into == 0) &&
                                !MUTANT(merge_ignores_erases)});
  }
  const lsm::TableOptions table_options{.keys = keys_,
                                        .salt = salts_.at(term_.value),
                                        .term = term_,
                                        .first_number = take_table_numbers(),
                                        .random_seed = runtime_.random.next(),
                                        .table_bytes_max = merged_table_bytes_max()};
  lsm::TableMerge merge(std::move(sources), table_options,
                        job.is_bottom || MUTANT(merge_drops_erases_early));
  std::vector<std::size_t> next_block(inputs.size());
  while (!merge.at_end()) {
    for (const std::size_t input : merge.hungry()) {
      if (stop_background_ || fenced_) co_return fail(Code::cancelled, "compaction stopped");
      const std::size_t first = next_block[input];
      const std::size_t count =
          std::min(kBlocksAtOnce, inputs[input]->index().blocks.size() - first);
      if (count == 0) {
        merge.feed(input, {});
        continue;
      }
      next_block[input] += count;
      const Buffer stored = co_await inputs[input]->read_blocks(first, count);
      auto open = [&table = *inputs[input], first, count, &stored] {
        return table.open_blocks(first, count, stored);
      };
      Result<lsm::TableMerge::Blocks> blocks =
          co_await offload(runtime_.executor, Priority::bulk, std::move(open));
      if (!blocks) {
        spdlog::error("compaction: table {} is damaged: {}", inputs[input]->name(),
                      blocks.error().text());
        co_return std::unexpected(blocks.error());
      }
      merge.feed(input, std::move(*blocks));
    }
    auto advance = [&merge] { return merge.advance(); };
    const Result<> advanced =
        co_await offload(runtime_.executor, Priority::bulk, std::move(advance));
    co_await advanced;
    for (lsm::BuiltTable& table : merge.take_finished()) {
      co_await upload_table(format::table_name(table.record.id), table.object);
      table_bytes_written_ += table.object.size();
      outputs.push_back(std::move(table.record));
      INVARIANT(outputs.size() <= kTablesPerJobMax);
    }
  }
  co_return {};
}

// A table that is not there was compacted away by a newer writer, or is lost.
Task<Error> Db::Impl::judge_lookup(Error error) {
  if (error.code() != Code::not_found) co_return error;
  store::Backoff backoff(50ms, 5s, runtime_.random);
  Result<bool> superseded = co_await as_result(versions_.is_superseded());
  while (!superseded) {
    if (fenced_ || abandoned_ || stop_background_) co_return superseded.error();
    co_await sleep_for(runtime_, backoff.next());
    superseded = co_await as_result(versions_.is_superseded());
  }
  if (*superseded) {
    log_fenced();
    co_return Error(Code::fenced, "a newer writer owns the database");
  }
  co_return Error(Code::corrupt, "a table is missing from the store");
}

// ---- objects that no manifest names

Task<> Db::Impl::remove_retired() {
  for (std::size_t i = 0; i < retired_.size();) {
    if (retired_[i].use_count() != 1) {
      ++i;  // a lookup is still in it
      continue;
    }
    const lsm::TableRef table = std::move(retired_[i]);
    retired_.erase(retired_.begin() + static_cast<std::ptrdiff_t>(i));
    // What cannot be removed now is an orphan for a later term.
    static_cast<void>(co_await as_result(store_.remove(table->name())));
  }
  co_return {};
}

Task<> Db::Impl::remove_orphans() {
  std::string after;
  for (;;) {
    const std::vector<std::string> names =
        co_await store_.list(format::kTablePrefix, after, kNamesAtOnce);
    for (const std::string& name : names) {
      const std::optional<format::TableId> id = format::table_id_of(name);
      if (!id || id->term >= term_ || tables_->find(*id) != nullptr) continue;
      const bool retired = std::ranges::any_of(
          retired_, [&](const lsm::TableRef& table) { return table->record().id == *id; });
      if (!retired) co_await store_.remove(name);
    }
    if (names.size() < kNamesAtOnce || stop_background_) co_return {};
    after = names.back();
  }
}

}  // namespace zerofs
