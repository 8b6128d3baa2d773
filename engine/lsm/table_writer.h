// Tables from sorted records (FORMAT.md, "Table"): blocks, then one blob with index, references and
// erased ranges, then the footer, so that one read of the end opens a table. Any thread.
#pragma once

#include <unordered_map>

#include "engine/format/manifest.h"
#include "engine/lsm/table_block.h"
#include "engine/lsm/table_index.h"

namespace zerofs::lsm {

struct TableOptions {
  const format::DatabaseKeys& keys;
  format::Salt salt;  // of the term
  Term term;
  u64 first_number = 0;  // of the tables that are made; a number is sealed once
  u64 random_seed = 0;   // fresh for every call
  u64 table_bytes_max = 64 * kMiB;
  u32 block_bytes = 16 * kKiB;  // plain
  format::Compression compression = {.level = 3};
};

struct BuiltTable {
  format::TableRecord record;
  Buffer object;
};

// One table. Runs and meta come in key order, each key once; erased ranges in order among
// themselves.
class TableWriter {
 public:
  TableWriter(const TableOptions& options, u64 number);

  void add_runs(ObjectId object, u64 chunk, std::span<const Found> runs);
  void add_meta(const MetaEntry& entry);
  void add_erased(const ErasedRange& range);

  bool empty() const { return record_.entries + record_.meta_entries + record_.erased_ranges == 0; }
  // Whether the finished object stays within table_bytes_max with one more record of at most so
  // many bytes, key and value, and one more erased range.
  bool has_room(u64 record_bytes, u64 segments) const;
  BuiltTable finish() &&;

 private:
  void add(std::string_view key, std::string_view value);
  void finish_block();
  u32 use_segment(SegmentId segment, u64 bytes);

  const TableOptions& options_;
  format::ObjectCipher cipher_;
  format::TableRecord record_;
  Buffer object_;
  BlockBuilder block_;
  std::string last_key_;  // of a record
  TableIndex index_;
  u64 index_bytes_ = 0;  // at most, when encoded
  std::unordered_map<u64, u32> segment_index_;
  std::vector<u32> run_segments_;  // of the chunk being added
};

// Cuts a sorted stream into tables of at most table_bytes_max (more only when a single record is
// larger). Their ranges are disjoint: an erased range that spans a cut is divided. Calls come in
// order: a range before the runs at or behind its first chunk, meta at the end.
class TableSplitter {
 public:
  explicit TableSplitter(const TableOptions& options);
  void add_erased(const ErasedRange& range);
  void add_runs(ObjectId object, u64 chunk, std::span<const Found> runs);
  void add_meta(const MetaEntry& entry);
  std::vector<BuiltTable> finish() &&;
  // The same in parts: nothing is added after the end; tables are taken as they are finished.
  void end();
  std::vector<BuiltTable> take_finished() { return std::exchange(out_, {}); }

 private:
  void write_open_range();
  void cut();

  const TableOptions& options_;
  std::optional<TableWriter> writer_;
  std::optional<ErasedRange> open_;  // begun, not written: a cut may still divide it
  std::vector<BuiltTable> out_;
  u64 made_ = 0;
};

std::vector<BuiltTable> build_tables(const Layer& layer, const TableOptions& options);

}  // namespace zerofs::lsm
