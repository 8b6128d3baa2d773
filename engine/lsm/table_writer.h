// Tables from sorted records (FORMAT.md, "Table"): blocks, then one blob with index, segment
// references and erased ranges, then the footer, so that one suffix read opens a table.
#pragma once

#include "engine/format/manifest.h"
#include "engine/lsm/table_block.h"

namespace zerofs::lsm {

struct TableOptions {
  const format::DatabaseKeys& keys;
  format::Salt salt;
  Term term;
  u64 first_number = 0;  // of the tables that are made
  u64 random_seed = 0;   // fresh for every call: a number is sealed once, this is belt and braces
  u64 table_bytes_max = 64 * kMiB;
  u32 block_bytes = 16 * kKiB;  // plain
  format::Compression compression = {.level = 3};
};

struct BuiltTable {
  format::TableRecord record;
  Buffer object;
};

// One table, record by record in key order; a chunk's key comes once.
class TableWriter {
 public:
  TableWriter(const TableOptions& options, u64 number);

  void add_runs(ObjectId object, u64 chunk, std::span<const Entry> runs, const Layer& layer);
  void add_meta(const MetaEntry& entry);
  // In order; ranges are in the table's key range too.
  void add_erased(const ErasedRange& range);

  u64 bytes() const { return object_.size() + block_.bytes(); }
  bool empty() const { return record_.entries + record_.meta_entries + record_.erased_ranges == 0; }
  BuiltTable finish() &&;

 private:
  void add(std::string key, std::string_view value);
  void finish_block();
  void widen(const std::string& first, const std::string& last);
  u32 segment_index(SegmentId segment);

  const TableOptions& options_;
  format::ObjectCipher cipher_;
  format::TableRecord record_;
  Buffer object_;
  BlockBuilder block_;
  std::string last_key_;
  TableIndex index_;
  std::map<u64, u32> segment_indexes_;
  std::map<std::pair<u32, u64>, u32> frames_;  // counted once each
};

// Cuts a layer into disjoint tables of at most about table_bytes_max, in key order. Erased ranges
// are clipped so that the tables tile the range of the layer. Any thread.
std::vector<BuiltTable> build_tables(const Layer& layer, const TableOptions& options);

}  // namespace zerofs::lsm
