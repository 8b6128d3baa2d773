// Reads one table. Its index is fetched at the first use with one suffix read and stays; blocks go
// through the block cache.
#pragma once

#include "engine/base/sync.h"
#include "engine/format/manifest.h"
#include "engine/lsm/block_cache.h"
#include "engine/store/object_store.h"

namespace zerofs::lsm {

class TableReader {
 public:
  // `keys`, `store` and `cache` outlive the reader; `salt` is of the table's term.
  TableReader(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
              const format::Salt& salt, format::TableRecord record, BlockCache& cache);
  ~TableReader();
  TableReader(const TableReader&) = delete;

  const format::TableRecord& record() const { return record_; }

  // Resolves what it can of `need`, appends it to `out`, returns what is still needed. The plain
  // call answers only from RAM: none means "would wait", and nothing was appended.
  std::optional<u32> try_find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out);
  // Errors: corrupt (the log names the object).
  Task<u32> find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out);

  // None when the table says nothing of the key.
  Task<std::optional<MetaEntry>> find_meta(std::string key);
  // Every entry whose key starts with `prefix`, deletions included, in order.
  Task<> scan_meta(std::string prefix, std::vector<MetaEntry>& out);
  // Chunks of [first, last] that have entries, in order, at most `count_max`.
  Task<std::vector<u64>> chunks_between(ObjectId object, u64 first, u64 last,
                                        std::size_t count_max);

 private:
  using Block = std::shared_ptr<const TableBlock>;
  bool in_range(std::string_view key) const {
    return key >= record_.first_key && key <= record_.last_key;
  }
  Task<> load_index();
  Task<> read_index();
  Task<> read_retrying(u64 offset, MutableBytes out);
  Task<Block> block(std::size_t index);
  std::size_t block_for(std::string_view key) const;
  Result<u32> find_in_block(const TableBlock& block, const std::string& key, ObjectId object,
                            u64 chunk, u32 need, std::vector<Found>& out) const;
  std::unexpected<Error> damaged(Error error) const;
  u32 resolve_erased(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) const;

  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  format::Salt salt_;
  format::TableRecord record_;
  std::string name_;
  BlockCache& cache_;
  std::optional<TableIndex> index_;
  std::vector<SegmentId> segments_;
  bool loading_ = false;
  Event loaded_;
};

}  // namespace zerofs::lsm
