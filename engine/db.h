// Db: one database, the class the rest of the world uses. Sparse objects of pages, and a small
// key-value face (meta), on a log-structured merge engine whose log, tables and manifest are
// objects in a store.
//
// Everything happens on one executor's thread. Hot operations exist twice: a plain `try_` call
// that answers at once or says "would wait" (false, nothing done), and a Task for that case.
//
// Durability: a write is acknowledged when it is in RAM. `position()` names everything
// acknowledged so far; `wait_durable(position)` ends when all of that is in the store, and a crash
// loses only a suffix of what came later. Writes go on while flushes wait.
//
// Ends by itself: when a newer writer has fenced us, every operation fails with `fenced` and
// `wait_fenced()` ends. Store outages do not end anything: operations wait.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/cache/page_slab.h"
#include "engine/format/key_slot.h"
#include "engine/format/manifest.h"
#include "engine/lsm/compaction.h"
#include "engine/store/object_store.h"

namespace zerofs {

// What a database needs to work at all; calls must then be small, at most a hundredth of it. For
// simulations: users get at least kMemoryBytesUsersMin.
constexpr u64 kMemoryBytesMin = 2 * kMiB;
constexpr u64 kMemoryBytesUsersMin = 64 * kMiB;
constexpr u64 kMemoryBytesMax = 4 * kTiB;

struct DbOptions {
  // All memory of the database (DESIGN section 9): dirty pages 40 %, page cache 30 %, index 15 %,
  // layers 10 %.
  u64 memory_bytes = kGiB;
  // Open although another owner may still be alive; it will be fenced.
  bool takeover = false;
  format::Owner owner;  // of this process
  // Whether the owner that the last manifest names ran on this machine and boot and is gone, so
  // that its term can be taken without asking. Without an answer here it may be alive.
  std::function<bool(const format::Owner&)> owner_is_gone;

  u32 uploads_max = 8;                        // W: log objects in flight
  Duration batch_age = 5s;                    // an open batch is sealed at this age at the latest
  Duration flush_spacing = 3ms;               // between seals that flushes ask for, when busy
  double flush_puts_per_second = 20;          // token bucket of flush-driven seals…
  double flush_puts_burst = 1'728'000;        // …and its capacity (one day)
  u64 memtable_objects_max = 4096;            // log objects until the memtable is flushed
  u64 table_bytes_max = 64 * kMiB;
  u64 level_bytes_base = lsm::kLevelBytesBase;
};

// A handle on an object's pages: what the page cache knows of it. Owned by the Db.
namespace cache {
class Object;
}
using cache::Object;

// A part of a read's answer: memory that stays valid and unchanged until `unpin`.
struct Piece {
  const std::byte* data = nullptr;
  u32 bytes = 0;
  cache::PageIndex page = cache::kNoPage;  // pinned; not a memory page for zeroes
  bool is_zeroes() const { return !cache::is_memory(page); }
};

// What a range holds, for NBD's base:allocation and SEEK_HOLE.
enum class ExtentKind : u8 { data, zero, hole };
struct Extent {
  u64 bytes = 0;
  ExtentKind kind = ExtentKind::hole;
};

// Names all writes acknowledged before it was taken.
struct Position {
  u64 seq_end = 0;  // durable when the log prefix [0, seq_end) of this term is
  friend auto operator<=>(const Position&, const Position&) = default;
};

// Applied in one step, in one batch: after a crash all of it is there or nothing.
struct Transaction {
  std::vector<lsm::MetaEntry> meta;  // none = delete
  // Everything at and beyond `size` of the object reads as zeroes afterwards.
  struct Truncate {
    Object* object;
    u64 size;
  };
  std::vector<Truncate> truncates;
  std::vector<ObjectId> deleted_objects;
};

struct DbStatus {
  Term term;
  u64 log_sealed = 0;   // log objects of this term, sealed
  u64 log_durable = 0;  // … and durable: the prefix
  u64 memory_bytes = 0;
  u64 dirty_bytes = 0;  // acknowledged, not yet durable
  u64 dirty_bytes_max = 0;
  u64 cache_pages = 0;
  u64 cache_pages_max = 0;
  u64 layer_bytes = 0;
  u64 layers = 0;
  u64 tables = 0;
  u64 tables_level0 = 0;
  u64 compactions = 0;  // since the opening
  u64 index_bytes = 0;
  u64 manifest_version = 0;
  double flush_tokens = 0;
  u64 user_bytes_written = 0;
  u64 store_bytes_written = 0;
  u64 reads_from_store = 0;
  Duration store_failing_for{};  // 0 while uploads succeed
  std::string store_error;       // the last one while failing
};

class Db {
 public:
  // Makes an empty database in an empty store: manifest 0. Errors: precondition when there is one.
  static Task<> create(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys);

  // Takes a new term, fences and replays what earlier owners left (DESIGN section 6). `keys`
  // outlive the Db. Errors: not_found (no database there), busy (another owner may be alive: the
  // log names it), corrupt (the log names the object), fenced, denied.
  static Task<std::unique_ptr<Db>> open(Runtime runtime, store::ObjectStore& store,
                                        const format::DatabaseKeys& keys, DbOptions options);
  // Flushes everything, writes the memtable as a table, seals the term; then the Db may be
  // destroyed. Waits for operations in progress; new ones fail with `cancelled`. When the store is
  // down it waits, unless `abandon()` is called: then what is not durable is lost, as in a crash.
  Task<> close();
  void abandon();
  ~Db();

  // Ends when a newer writer has taken over (true), or the database is closed (false).
  Task<bool> wait_fenced();
  bool fenced() const;

  // ---- objects
  ObjectId new_object_id();
  // The same handle for the same id as long as anybody holds it.
  Object* open_object(ObjectId id);
  void close_object(Object* object);

  // Appends pieces that cover [offset, offset + bytes) in order, pinned. Nothing is read ahead.
  bool try_read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out);
  Task<> read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out);
  void unpin(std::span<const Piece> pieces);
  // A hint that hits at these offsets come next, one after the other: their cache misses overlap.
  void expect(const Object& object, std::span<const u64> offsets) const;

  // Acknowledged on return. `bytes` may be large; it is not torn by a crash at page granularity
  // only: a write longer than a page may be cut by a crash between pages of different batches.
  bool try_write(Object& object, u64 offset, Bytes data);
  Task<> write(Object& object, u64 offset, Bytes data);

  // Large aligned writes without a copy: take pages (false = would wait for dirty memory), fill
  // them, hand them over. `write_pages` never waits and takes the references; `return_pages` gives
  // back pages that were not written after all.
  bool try_take_pages(u32 count, std::vector<cache::PageIndex>& out);
  Task<> take_pages(u32 count, std::vector<cache::PageIndex>& out);
  std::byte* page_data(cache::PageIndex page);
  void write_pages(Object& object, u64 first_page, std::span<const cache::PageIndex> pages);
  void return_pages(std::span<const cache::PageIndex> pages);

  // Discard: whole pages become holes, parts of pages are left as they are. Any length.
  Task<> discard(Object& object, u64 offset, u64 bytes);
  // Everything in the range reads as zeroes; whole pages become holes or stay allocated.
  enum class ZeroAs : u8 { hole, zero };
  Task<> write_zeroes(Object& object, u64 offset, u64 bytes, ZeroAs as);

  Position position() const;
  // Errors: fenced, cancelled.
  Task<> wait_durable(Position position);
  bool is_durable(Position position) const;

  // Extents from `offset` on that cover at most `bytes`, neighbours of one kind merged, at most
  // `count_max`. They may cover less than asked, never nothing.
  Task<std::vector<Extent>> extents(Object& object, u64 offset, u64 bytes, u32 count_max);
  // Brings the range into the page cache, as far as it fits.
  Task<> prefetch(Object& object, u64 offset, u64 bytes);

  // ---- meta
  Task<std::optional<std::string>> get_meta(std::string key);
  // All entries whose key starts with `prefix`, in order; deleted ones are not in it.
  Task<std::vector<lsm::MetaEntry>> scan_meta(std::string prefix);
  // Acknowledged on return, durable as every write.
  Task<> commit(Transaction transaction);

  DbStatus status() const;

 private:
  class Impl;
  explicit Db(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zerofs
