// Reads one table. The index is fetched at the first use with one read of the object's end and
// stays; blocks go through the block cache. Whoever asks for what is being fetched waits for it.
#pragma once

#include <set>

#include "engine/base/sync.h"
#include "engine/format/manifest.h"
#include "engine/lsm/block_cache.h"
#include "engine/lsm/table_index.h"
#include "engine/lsm/table_key.h"
#include "engine/store/object_store.h"

namespace zerofs::lsm {

class TableReader {
 public:
  // `keys`, `store` and `cache` outlive the reader; `salt` is of the table's term. Nothing is read.
  TableReader(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
              const format::Salt& salt, format::TableRecord record, BlockCache& cache);
  ~TableReader();
  TableReader(const TableReader&) = delete;

  const format::TableRecord& record() const { return record_; }

  // Errors of all that wait: corrupt (damaged; the log names the object), not_found (so is this, unless
  // a newer writer has compacted it away), or what the store said, after retrying for about a
  // minute and a half.

  // Resolves what it can of `need`, appends it to `out`, returns what is still needed. The plain
  // call answers only from RAM: none means "would wait", and nothing was appended.
  std::optional<u32> try_find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out);
  Task<u32> find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out);

  // None when the table says nothing of the key.
  Task<std::optional<MetaEntry>> find_meta(std::string key);
  // Every entry whose key starts with `prefix`, deletions included, in order.
  Task<> scan_meta(std::string prefix, std::vector<MetaEntry>& out);
  // Chunks of [first, last] that have entries, in order, at most `count_max`.
  Task<std::vector<u64>> chunks_between(ObjectId object, u64 first, u64 last,
                                        std::size_t count_max);

  // For compaction, which reads everything once and must not push others out of the cache.
  Task<> load() { return need_index(); }
  const TableIndex& index() const { return *index_; }  // once loaded
  const std::string& name() const { return name_; }
  // Blocks first..first + count - 1 as they are stored, in one read; `open_blocks` (any thread) makes
  // blocks of them.
  Task<Buffer> read_blocks(std::size_t first, std::size_t count);
  Result<std::vector<std::shared_ptr<const TableBlock>>> open_blocks(std::size_t first,
                                                                    std::size_t count,
                                                                    Bytes stored) const;

 private:
  using Block = std::shared_ptr<const TableBlock>;

  bool in_range(std::string_view key) const {
    return key >= record_.first_key && key <= record_.last_key;
  }
  Task<> need_index();
  Task<TableIndex> read_index();
  Task<Block> block(std::size_t index);
  Task<Block> read_block(format::BlobPointer blob);
  Task<> read_retrying(u64 offset, MutableBytes out,
                       store::Class klass = store::Class::foreground);
  Result<u32> find_in_block(const TableBlock& block, std::string_view key, ObjectId object,
                            u64 chunk, u32 need, std::vector<Found>& out);
  u32 find_in_erased(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) const;
  std::unexpected<Error> damaged(Error error);

  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  format::Salt salt_;
  format::TableRecord record_;
  std::string name_;
  BlockCache& cache_;
  std::optional<TableIndex> index_;
  std::set<u64> flights_;  // what is being fetched, by offset
  Event landed_;
  bool damage_logged_ = false;
};

}  // namespace zerofs::lsm
