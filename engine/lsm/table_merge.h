// Several tables become one sorted stream, cut into new tables, with bounded memory: blocks are fed
// as they are needed, finished tables are taken as they come. Any thread, one at a time.
//
// The fold of layer.h, record by record: of a chunk the newest input that names a page decides, and
// an erased range of an input hides what older inputs say, not what it says itself.
#pragma once

#include "engine/lsm/layer_parts.h"
#include "engine/lsm/table_writer.h"

namespace zerofs::lsm {

class TableMerge {
 public:
  using Blocks = std::vector<std::shared_ptr<const TableBlock>>;

  // Indexes newest first; they outlive the merge. An input that `hides` nothing is one of the
  // output's level, of which no older input overlaps it.
  struct Input {
    const TableIndex* index = nullptr;
    std::string first_key;  // of the table
    bool hides = true;
  };
  // `is_bottom`: nothing older lies below, so erased ranges, holes and deletions are dropped. (No
  // object is born above a parent yet, to which a hole would let a lookup fall through.)
  TableMerge(std::vector<Input> inputs, const TableOptions& options, bool is_bottom);

  // Inputs that must be fed before `advance` gets further.
  std::vector<std::size_t> hungry() const;
  // The blocks that follow those fed before. Without any the input ends.
  void feed(std::size_t input, Blocks blocks);

  // Merges until somebody is hungry or all is done. Errors: corrupt.
  Result<> advance();
  bool at_end() const { return at_end_; }
  // Tables finished so far, in key order; after the end the last ones as well.
  std::vector<BuiltTable> take_finished() { return out_.take_finished(); }
  u64 entries() const { return entries_; }

 private:
  struct Stream {
    Input input;
    ErasedCursor erased;
    Blocks blocks;
    std::size_t next_block = 0;
    std::optional<TableBlock::Cursor> cursor;  // none: hungry, ended, or not begun
    bool begun = false;
    bool ended = false;
  };
  void begin_block(Stream& stream);
  void next(Stream& stream);
  void look_who_begins();
  const Stream* smallest() const;
  Result<> merge_chunk(std::string_view key, const EntryView& at);
  Result<> merge_meta(std::string_view key);
  void finish();

  std::vector<Stream> streams_;  // newest first
  std::vector<ErasedRange> erased_;
  std::size_t next_erased_ = 0;
  bool is_bottom_;
  bool at_end_ = false;
  bool starved_ = false;                      // a stream that has begun ran out of blocks
  std::optional<std::string> next_to_begin_;  // the lowest first key of those that have not
  u64 entries_ = 0;
  TableSplitter out_;
  std::vector<Found> runs_;
};

}  // namespace zerofs::lsm
