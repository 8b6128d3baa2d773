// When batches are sealed for flushes, and how memtables become tables.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/base/mutant.h"
#include "engine/db_impl.h"
#include "engine/lsm/table_writer.h"
#include "engine/store/backoff.h"

namespace zerofs {

// ---- flushes

Task<> Db::Impl::wait_durable(Position position) {
  if (log_.durable_end() >= position.seq_end) co_return {};
  if (MUTANT(ack_before_durable) && log_.sealed_end() >= position.seq_end) co_return {};
  if (MUTANT(ack_out_of_prefix) && log_.sealed_end() >= position.seq_end &&
      log_.batches()[position.seq_end - 1 - log_.durable_end()]->uploaded) {
    co_return {};
  }
  last_flush_wait_ = runtime_.clock.now();
  waited_before_ = true;
  flush_wanted_ = std::max(flush_wanted_, position.seq_end);
  log_.make_urgent();
  seal_wake_.wake_all();
  while (log_.durable_end() < position.seq_end) {
    if (fenced_) co_return fail(Code::fenced, "a newer writer owns the database");
    if (abandoned_) co_return fail(Code::cancelled, "the database was abandoned");
    co_await durable_.wait();
  }
  co_return {};
}

// Seals the open batch when a flush waits for it: at once when no upload is in flight, else not
// sooner than `flush_spacing` after the last seal, so that flushes that come close together share
// an object; and within the budget of PUTs.
Task<> Db::Impl::seal_for_flushes() {
  WakeTimer timer(runtime_.executor, seal_wake_);
  while (!stop_background_) {
    if (flush_wanted_ <= open_.seq || open_.empty()) {
      co_await seal_wake_.wait();
      continue;
    }
    const Instant now = runtime_.clock.now();
    const Instant spaced = log_.idle() ? now : last_seal_ + options_.flush_spacing;
    const Instant allowed = std::max(spaced, flush_tokens_.next(now));
    if (allowed <= now) {
      flush_tokens_.take(now);
      seal_open(true);
      continue;
    }
    timer.arm(allowed);
    co_await seal_wake_.wait();
    timer.disarm();
  }
  co_return {};
}

// ---- memtable

bool Db::Impl::memtable_due() const {
  return memtable_objects_ >= options_.memtable_objects_max ||
         memtable_data_bytes_ >= kMemtableDataBytesMax ||
         memtable_.memory_bytes() >= memtable_layer_bytes_max_ / 2;
}

Task<> Db::Impl::flush_memtables() {
  store::Backoff backoff(1s, 30s, runtime_.random);
  while (!stop_background_) {
    // Level 0 is full: writers come to a stop at the limit of the layers until compaction is ahead. One
    // that cannot go on, because a table is damaged, must not stop them for ever.
    const bool is_full = tables_->level0_size() >= lsm::kLevel0Stop && !compaction_fails_;
    if (!memtable_due() || is_full) {
      co_await memtable_wake_.wait();
      continue;
    }
    const Result<> flushed = co_await as_result(flush_memtable());
    if (flushed || stop_background_) continue;
    spdlog::error("memtable flush failed: {} ({})", flushed.error().text(),
                  code_name(flushed.error().code()));
    co_await sleep_for(runtime_, backoff.next());
  }
  co_return {};
}

// Durable layers become tables in front of level 0. The tables and the replay points that they make
// obsolete enter the manifest in one commit; until then the layers stay visible and a crash
// replays them from the log.
Task<> Db::Impl::flush_memtable() {
  std::vector<lsm::LayerRef> frozen = memtable_.freeze();
  if (frozen.empty()) co_return {};
  // One step with freeze(): the memtable ends exactly at the durable end. What the manifest is told
  // counts as done only once it is committed: a flush that fails starts again from the same points.
  lsm::FlushMemtable edit;
  edit.moves = replayed_;
  u64 own_end = log_.durable_end();
  if (MUTANT(replay_point_too_far)) own_end = log_.sealed_end();
  if (MUTANT(flush_ahead_of_prefix)) {
    for (const auto& batch : log_.batches()) {
      if (batch->layer != nullptr) frozen.insert(frozen.begin(), batch->layer);
    }
  }
  if (own_end != own_replay_from_) edit.moves.push_back({term_, own_replay_from_, own_end});
  const u64 objects = memtable_objects_;
  const u64 data_bytes = memtable_data_bytes_;

  // A number is sealed once, so a flush that starts again takes new ones.
  const u64 first_number = take_table_numbers();
  auto build = [&frozen, keys = &keys_, salt = salts_.at(term_.value), term = term_, first_number,
                table_bytes = options_.table_bytes_max, seed = runtime_.random.next()] {
    lsm::Layer merged = *frozen.front();
    for (std::size_t i = 1; i < frozen.size(); ++i) {
      merged = MUTANT(fold_in_wrong_order) ? lsm::fold(*frozen[i], merged)
                                           : lsm::fold(merged, *frozen[i]);
    }
    return lsm::build_tables(merged, {.keys = *keys,
                                      .salt = salt,
                                      .term = term,
                                      .first_number = first_number,
                                      .random_seed = seed,
                                      .table_bytes_max = table_bytes});
  };
  std::vector<lsm::BuiltTable> built =
      co_await offload(runtime_.executor, Priority::bulk, std::move(build));
  INVARIANT(built.size() <= kTablesPerJobMax);
  for (lsm::BuiltTable& table : built) {
    co_await upload_table(format::table_name(table.record.id), table.object);
    table_bytes_written_ += table.object.size();
    edit.tables.push_back(table.record);
    table.object = Buffer();
  }
  if (MUTANT(drop_frozen_before_commit)) memtable_.drop_frozen();
  lsm::Edit edits = {std::move(edit)};
  co_await commit_tables(std::move(edits));
  compaction_wake_.wake_all();
  memtable_.drop_frozen();
  replayed_.clear();
  own_replay_from_ = own_end;
  memtable_objects_ -= objects;
  memtable_data_bytes_ -= data_bytes;
  room_.wake_all();
  spdlog::info("memtable flushed: {} tables at level 0, replay from {}", tables_->size(),
               own_replay_from_);
  co_return {};
}

Task<> Db::Impl::upload_table(std::string name, Bytes body) {
  store::Backoff backoff(50ms, 5s, runtime_.random);
  bool warned = false;
  for (;;) {
    Result<> created = co_await as_result(store_.create(name, body, store::Class::bulk));
    if (created) co_return {};
    if (created.error().code() == Code::precondition) {
      // The name carries our term and a number used once: it can only be our own lost reply.
      Result<store::Tail> seen =
          co_await as_result(store_.read_suffix(name, body.size() + 1, store::Class::bulk));
      if (seen && std::ranges::equal(seen->bytes.bytes(), body)) co_return {};
      if (seen) {
        spdlog::error("table {} exists with other contents", name);
        co_return corrupt("a table of ours holds foreign bytes");
      }
    }
    if (!warned) {
      spdlog::warn("cannot write {}: {} ({}); retrying", name, created.error().text(),
                   code_name(created.error().code()));
      warned = true;
    }
    if (fenced_ || abandoned_) co_return fail(Code::cancelled, "table upload abandoned");
    co_await sleep_for(runtime_, backoff.next());
  }
}

}  // namespace zerofs
