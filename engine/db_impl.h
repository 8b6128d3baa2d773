// The inside of Db: what its parts share. Reading order: db_write.cc (open batch, sealing),
// db_read.cc (lookups and fills), db_ahead.cc (sequential readers), db_flush.cc (group commit's timing, memtable to tables),
// db_open.cc (opening, closing), db.cc (the face).
#pragma once

#include <map>

#include "engine/base/mutant.h"
#include "engine/db.h"
#include "engine/log/log_writer.h"
#include "engine/log/token_bucket.h"
#include "engine/lsm/block_cache.h"
#include "engine/lsm/memtable.h"
#include "engine/lsm/table_set.h"
#include "engine/lsm/version_set.h"

namespace zerofs {

// Chunks that sealed batches may name beyond one per page of the slab, before writers wait.
constexpr u32 kSealedChunksExtra = 65536;
// Chunks with a fill in flight: bounds nodes beyond those that pages or batches need.
constexpr u32 kFlightNodesMax = 65536;
// A plain write call takes at most this much; the rest goes through the waiting path in steps.
constexpr u64 kTryWriteBytesMax = kMiB;
// Bytes of frames in the logs that the memtable covers, until it is flushed.
constexpr u64 kMemtableDataBytesMax = kGiB;
// What a cold read fetches at once before it pins the pages.
constexpr u64 kReadWindowBytes = kMiB;

class Db::Impl final : public cache::StaleJudge, public log::LogWriter::Listener {
 public:
  Impl(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
       DbOptions options, std::unique_ptr<cache::PageSlab> slab);
  ~Impl() override;

  // ---- db_open.cc
  Task<> open();
  Task<> close();
  void abandon();
  Task<bool> wait_fenced();

  // ---- db_write.cc
  bool try_write(Object& object, u64 offset, Bytes data);
  Task<> write(Object& object, u64 offset, Bytes data);
  bool try_take_pages(u32 count, std::vector<cache::PageIndex>& out);
  Task<> take_pages(u32 count, std::vector<cache::PageIndex>& out);
  void write_pages(Object& object, u64 first_page, std::span<const cache::PageIndex> pages);
  void return_pages(std::span<const cache::PageIndex> pages);
  Task<> set_empty(Object& object, u64 offset, u64 bytes, lsm::RunKind kind, bool zero_partial);
  Task<> commit(Transaction transaction);
  Position position() const {
    return {open_.empty() || MUTANT(flush_misses_open_batch) ? open_.seq : open_.seq + 1};
  }

  // ---- db_flush.cc
  Task<> wait_durable(Position position);
  bool is_durable(Position position) const { return log_.durable_end() >= position.seq_end; }

  // ---- db_read.cc, db_extents.cc
  bool try_read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out) {
    if (!pin(object, offset, bytes, true, out)) return false;
    const cache::Streams::Range next = object.streams().hit(offset, bytes, ahead_max());
    if (next.bytes != 0) [[unlikely]] read_ahead(object, next);
    return true;
  }
  bool pin(Object& object, u64 offset, u32 bytes, bool touch, std::vector<Piece>& out);
  Task<> read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out);
  void unpin(std::span<const Piece> pieces);
  void expect(const Object& object, std::span<const u64> offsets) const;
  Task<std::vector<Extent>> extents(Object& object, u64 offset, u64 bytes, u32 count_max);
  Task<> prefetch(Object& object, u64 offset, u64 bytes);
  Task<std::optional<std::string>> get_meta(std::string key);
  Task<std::vector<lsm::MetaEntry>> scan_meta(std::string prefix);

  DbStatus status() const;

  bool fenced() const { return fenced_; }
  // What every operation checks first.
  Result<> usable() const {
    if (fenced_) return fail(Code::fenced, "a newer writer owns the database");
    if (closing_) return fail(Code::cancelled, "the database is closing");
    return {};
  }

  cache::PageSlab& slab() { return *slab_; }
  cache::PageCache& cache() { return cache_; }
  ObjectId new_object_id() {
    if (MUTANT(object_ids_without_term)) return {u64{1} << 40 | next_object_++};
    return {term_.value << 40 | next_object_++};
  }

 private:
  // An operation that may suspend: close() waits for them.
  struct Operation {
    explicit Operation(Impl& impl) : impl(impl) { ++impl.operations_; }
    ~Operation() {
      if (--impl.operations_ == 0) impl.idle_.wake_all();
    }
    Operation(const Operation&) = delete;
    Impl& impl;
  };

  // LogWriter::Listener
  void batch_durable(log::SealedBatch& batch) override;
  void log_fenced() override;
  format::Compression compression_now() override;
  bool is_pressed() override;
  // StaleJudge
  bool erased_after(ObjectId object, u64 chunk, u64 sealed_seq) override;

  // ---- db_write.cc
  u64 dirty_pages() const { return open_.memory_pages + sealed_pages_ + taken_pages_; }
  u64 dirty_pages_max() const;
  bool has_room(u32 pages);
  bool write_now(Object& object, u64 offset, Bytes data);
  bool edge_present(Object& object, u64 offset, u64 bytes);
  Task<> fetch_edges(Object& object, u64 offset, u64 bytes);
  Task<> wait_for_room(u32 pages);
  void put_page(cache::Node& node, u32 index, cache::PageIndex page);
  void put_bytes(cache::Node& node, u32 index, u32 begin, Bytes data);
  Task<> populate_slab();
  void mark_open(cache::Node& node, u32 index, bool was_open_memory);
  void drop_node_pages(cache::Node& node, u32 mask);
  void erase_chunks(Object& object, u64 first, u64 last, bool whole_object);
  void set_empty_pages(Object& object, u64 chunk, u32 mask, lsm::RunKind kind);
  void truncate_now(Object& object, u64 size);
  void note_open();
  void seal_if_full();
  void seal_open(bool urgent);

  // ---- db_flush.cc
  struct AgeTimer final : Timer {
    explicit AgeTimer(Impl& impl) : impl(impl) {}
    void fire() override { impl.seal_open(false); }
    Impl& impl;
  };
  Task<> seal_for_flushes();
  Task<> flush_memtables();
  bool memtable_due() const;
  Task<> flush_memtable();
  Task<> upload_table(std::string name, Bytes body);

  // ---- db_compact.cc
  static constexpr u64 kTablesPerJobMax = 1 << 16;
  u64 take_table_numbers();
  // A table is built in memory.
  u64 merged_table_bytes_max() const {
    return std::min(options_.table_bytes_max, options_.memory_bytes / 32);
  }
  Result<> adopt_tables();
  Task<> commit_tables(lsm::Edit edit);
  Task<> compact_tables();
  Task<> compact(lsm::Compaction job);
  Task<> merge_tables(const lsm::Compaction& job, std::vector<lsm::TableRef> inputs,
                      std::vector<format::TableRecord>& outputs);
  Task<Error> judge_lookup(Error error);
  Task<> remove_retired();
  Task<> remove_orphans();

  // ---- db_read.cc
  struct FrameFlight;
  struct ChunkFill;
  bool erased_in_batches(ObjectId object, u64 chunk) const;
  Task<> resolve(ObjectId object, u64 chunk, u32 asked, u32 welcome, std::vector<lsm::Found>& out);
  Task<> fetch(Object& object, u64 offset, u64 bytes);
  Task<> fetch_group(std::vector<std::shared_ptr<FrameFlight>> group);
  Task<> read_segment(lsm::SegmentId segment, u64 offset, MutableBytes out);
  Result<format::Salt> salt_of(Term term) const;

  // ---- db_ahead.cc
  u64 ahead_max() const;
  void read_ahead(Object& object, cache::Streams::Range range);
  Task<> read_ahead_step(Object* object, u64 offset, u64 bytes);

  // ---- db_open.cc
  Task<> take_term();
  Task<> recover();
  Result<> check_owners(const format::Manifest& manifest);

  friend class Db;
  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  DbOptions options_;
  std::unique_ptr<cache::PageSlab> slab_;
  cache::PageCache cache_;
  log::LogWriter log_;
  lsm::Memtable memtable_;
  lsm::VersionSet versions_;
  lsm::BlockCache blocks_;

  Term term_;
  u64 next_object_ = 1;
  std::map<u64, format::Salt> salts_;  // by term
  // What the manifest names, and readers of what it named before and somebody may still use.
  std::shared_ptr<const lsm::TableSet> tables_ = std::make_shared<const lsm::TableSet>();
  std::vector<lsm::TableRef> retired_;

  // Open and sealed batches (db_write.cc).
  log::OpenBatch open_;
  u32 batch_pages_max_ = 0;
  u64 sealed_pages_ = 0;
  u64 sealed_chunks_ = 0;
  u64 taken_pages_ = 0;
  u64 dirty_share_pages_ = 0;
  u32 writers_waiting_ = 0;
  bool populating_ = false;
  Event room_;  // pages were released, or batches became durable
  AgeTimer age_timer_;

  // Flushes (db_flush.cc).
  u64 flush_wanted_ = 0;  // log end that somebody waits for
  Instant last_seal_{};
  Instant last_flush_wait_{};
  bool waited_before_ = false;
  log::TokenBucket flush_tokens_;
  Event durable_;  // the durable end moved, or we are stopping
  Event seal_wake_;
  Event memtable_wake_;
  Event compaction_wake_;
  std::vector<lsm::FlushMemtable::Move> replayed_;  // terms whose replay is in the memtable
  u64 own_replay_from_ = 0;
  u64 memtable_objects_ = 0;
  u64 memtable_data_bytes_ = 0;
  u64 next_table_ = 0;
  u64 memtable_layer_bytes_max_ = 0;

  // Fills (db_read.cc): by segment and offset.
  std::map<std::pair<u64, u64>, std::shared_ptr<FrameFlight>> flights_;
  u64 reading_pages_ = 0;  // of cold reads in progress
  u64 reading_pages_max_ = 0;
  u64 ahead_pages_ = 0;  // being fetched ahead of sequential readers

  u64 user_bytes_written_ = 0;
  u64 table_bytes_written_ = 0;
  u64 compactions_ = 0;
  bool compaction_fails_ = false;  // the last one did
  u64 reads_from_store_ = 0;

  bool fenced_ = false;
  bool closing_ = false;
  bool abandoned_ = false;
  bool stop_background_ = false;
  bool closed_ = false;
  u32 operations_ = 0;
  Event idle_;
  Event fence_event_;
  Gate gate_;
};

}  // namespace zerofs
