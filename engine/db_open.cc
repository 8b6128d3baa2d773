// Opening (DESIGN section 6): take a term, end the logs of earlier owners, replay, serve. Closing:
// everything into tables, the term sealed, so that the next opening replays nothing.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/db_impl.h"
#include "engine/log/recovery.h"

namespace zerofs {

namespace {

struct Shares {
  u64 slab_pages;
  u64 dirty_pages;
  u64 index_bytes;
  u64 layer_bytes;
  u32 batch_pages;
};

constexpr u64 kMemoryBytesMin = 64 * kMiB;
// A layer numbers its objects with 24 bits; below this size it cannot hold more.
constexpr u64 kLayerBytesMax = 256 * kMiB;

Shares shares_of(u64 memory_bytes) {
  // DESIGN section 9: dirty 40 %, page cache 30 %, index 15 %, layers 10 %, the rest is buffers.
  return {.slab_pages = memory_bytes / 10 * 7 / kPageBytes,
          .dirty_pages = memory_bytes / 10 * 4 / kPageBytes,
          .index_bytes = memory_bytes / 100 * 15,
          .layer_bytes = std::min(memory_bytes / 10, kLayerBytesMax),
          .batch_pages = static_cast<u32>(std::min(16 * kMiB, memory_bytes / 64) / kPageBytes)};
}

u32 nodes_for(u64 slab_pages) {
  // A node for each page in the worst case, for every chunk that batches name, for fills in flight.
  return static_cast<u32>(2 * slab_pages + kSealedChunksExtra + 2 * log::kBatchChunksMax +
                          kFlightNodesMax);
}

}  // namespace

Db::Impl::Impl(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
               DbOptions options, std::unique_ptr<cache::PageSlab> slab)
    : runtime_(runtime),
      store_(store),
      keys_(keys),
      options_(std::move(options)),
      slab_(std::move(slab)),
      cache_(*slab_, nodes_for(slab_->page_count()), *this),
      log_(runtime, store, keys, *slab_, *this, {.uploads_max = options_.uploads_max}),
      memtable_(runtime.executor),
      versions_(runtime, store, keys),
      blocks_(shares_of(options_.memory_bytes).index_bytes),
      room_(runtime.executor),
      age_timer_(*this),
      flush_tokens_(options_.flush_puts_per_second, options_.flush_puts_burst),
      durable_(runtime.executor),
      seal_wake_(runtime.executor),
      memtable_wake_(runtime.executor),
      landed_(runtime.executor),
      idle_(runtime.executor),
      fence_event_(runtime.executor),
      gate_(runtime.executor) {
  const Shares shares = shares_of(options_.memory_bytes);
  batch_pages_max_ = shares.batch_pages;
  // The share holds the dirty pages and the bytes that they are sealed into.
  dirty_share_pages_ =
      shares.dirty_pages - log::LogWriter::buffer_bytes_max({.uploads_max = options_.uploads_max},
                                                            u64{shares.batch_pages} * kPageBytes) /
                               kPageBytes;
  memtable_layer_bytes_max_ = shares.layer_bytes;
  reading_pages_max_ = (shares.slab_pages - shares.dirty_pages) / 2;
}

Db::Impl::~Impl() { runtime_.executor.disarm(age_timer_); }

// Whoever left a term unsealed may be alive. If it is surely gone, or the user says so, we go on.
Result<> Db::Impl::check_owners(const format::Manifest& manifest) {
  for (const format::TermRecord& record : manifest.terms) {
    if (record.end) continue;
    const format::Owner& owner = record.owner;
    if (options_.takeover || (options_.owner_is_gone && options_.owner_is_gone(owner))) {
      spdlog::info("taking over from the {} that did not close the database: host {}, pid {}",
                   owner.role, owner.hostname, owner.pid);
      continue;
    }
    spdlog::error(
        "the database was not closed by its last owner, which may be alive: {} on host {}, pid {}, "
        "opened at unix time {}",
        owner.role, owner.hostname, owner.pid, owner.opened_unix_seconds);
    return fail(Code::busy, "the database may have a live owner, pid", owner.pid);
  }
  return {};
}

Task<> Db::Impl::take_term() {
  for (;;) {
    co_await versions_.load();
    const format::Manifest& manifest = versions_.current();
    co_await check_owners(manifest);
    const Term last = manifest.last_term;
    if (last.value + 1 >= u64{1} << lsm::kTermBits) {
      co_return fail(Code::invalid, "no terms are left in this database", last.value);
    }
    format::TermRecord record{.term = {last.value + 1}, .end = {}, .owner = options_.owner};
    runtime_.random.fill(record.salt);
    const lsm::Edit edit = {lsm::TakeTerm{record}};
    const Result<> taken = co_await as_result(versions_.commit(edit));
    if (taken) {
      term_ = record.term;
      versions_.set_term(term_);
      co_return {};
    }
    // Another opener took the same number first: look again who it is.
    if (taken.error().code() != Code::precondition) co_return taken;
  }
}

Task<> Db::Impl::recover() {
  const format::Manifest manifest = versions_.current();
  log::Recovery recovery(runtime_, store_, keys_, log::kUploadsMax);
  std::vector<log::RecoveredLog> logs;
  lsm::Edit seals;
  for (const format::TermRecord& record : manifest.terms) {
    salts_[record.term.value] = record.salt;
    if (record.term == term_) continue;
    if (!record.end) {
      log::RecoveredLog read = co_await recovery.fence_and_read(record, term_);
      seals.push_back(lsm::SealTerm{record.term, read.end, false});
      logs.push_back(std::move(read));
    } else if (record.replay_from < *record.end) {
      log::RecoveredLog read = co_await recovery.read_sealed(record);
      logs.push_back(std::move(read));
    }
  }
  // The second look at the manifest after fencing: with a newer writer there, this fails.
  if (!seals.empty()) co_await versions_.commit(seals);

  u64 objects = 0;
  for (log::RecoveredLog& log : logs) {
    for (const lsm::LayerRef& layer : log.layers) memtable_.push(layer);
    objects += log.layers.size();
    memtable_data_bytes_ += log.data_bytes;
    if (log.end != log.from) replayed_.push_back({log.term, log.from, log.end});
  }
  memtable_objects_ = objects;
  if (objects != 0) spdlog::info("replayed {} log objects", objects);

  Tables tables;
  for (const auto& level : versions_.current().levels) {
    for (const format::TableRecord& record : level) {
      const Result<format::Salt> salt = salt_of(record.id.term);
      if (!salt) {
        spdlog::error("manifest: table {} is of an unknown term", format::table_name(record.id));
        co_return std::unexpected(salt.error());
      }
      tables.push_back(std::make_shared<lsm::TableReader>(runtime_, store_, keys_, *salt, record,
                                                          blocks_));
    }
  }
  tables_ = std::make_shared<const Tables>(std::move(tables));
  co_return {};
}

Task<> Db::Impl::open() {
  if (options_.memory_bytes < kMemoryBytesMin) {
    co_return invalid("--memory is too small; give at least 64MiB");
  }
  if (options_.uploads_max == 0 || options_.uploads_max > log::kUploadsMax) {
    co_return invalid("uploads_max must be 1 to 8");
  }
  Result<> opened = co_await as_result(take_term());
  if (opened) opened = co_await as_result(recover());
  if (!opened) {
    Task<> folds = memtable_.close();
    co_await std::move(folds);
    co_return opened;
  }
  log_.start(term_, salts_.at(term_.value));
  gate_.spawn(seal_for_flushes());
  gate_.spawn(flush_memtables());
  spdlog::info("database open: term {}, manifest {}, {} tables", term_.value,
               versions_.current().version, tables_->size());
  co_return {};
}

void Db::Impl::log_fenced() {
  if (fenced_) return;
  fenced_ = true;
  spdlog::error("a newer writer owns the database: this one stops (term {})", term_.value);
  runtime_.executor.disarm(age_timer_);
  durable_.wake_all();
  room_.wake_all();
  fence_event_.wake_all();
  seal_wake_.wake_all();
  memtable_wake_.wake_all();
}

Task<bool> Db::Impl::wait_fenced() {
  while (!fenced_ && !closing_) co_await fence_event_.wait();
  co_return fenced_;
}

void Db::Impl::abandon() {
  abandoned_ = true;
  log_.abandon();
  versions_.abandon();
  durable_.wake_all();
  room_.wake_all();
  seal_wake_.wake_all();
  memtable_wake_.wake_all();
}

Task<> Db::Impl::close() {
  closing_ = true;
  fence_event_.wake_all();
  room_.wake_all();
  while (operations_ != 0) co_await idle_.wait();
  runtime_.executor.disarm(age_timer_);

  // Nothing enters the open batch any more: make it durable.
  seal_open(true);
  Result<> result = co_await as_result(wait_durable({open_.seq}));
  stop_background_ = true;
  seal_wake_.wake_all();
  memtable_wake_.wake_all();
  co_await gate_.close();

  // A flush that was under way has ended with the gate; what it could not commit is still frozen
  // and still in the log.
  if (result && !memtable_.has_frozen()) {
    result = co_await as_result(flush_memtable());
    if (result) {
      // After this commit nothing of this term is uploaded, whatever its answer.
      const lsm::Edit seal = {lsm::SealTerm{term_, log_.durable_end(), true}};
      result = co_await as_result(versions_.commit(seal));
    }
    if (!result && result.error().code() == Code::fenced) log_fenced();
  }
  log_.abandon();
  co_await log_.close();
  co_await memtable_.close();
  closed_ = true;
  co_return result;
}

}  // namespace zerofs
