// A block: some records of a table in key order, the unit of reading and caching (FORMAT.md,
// "Table"). Keys are stored without what they share with the one before; every 16th is whole (a
// restart), so a search is binary over restarts and linear in between, in place on the plain bytes.
#pragma once

#include <memory>

#include "engine/base/wire.h"

namespace zerofs::lsm {

constexpr u32 kRecordsPerRestart = 16;

// Collects the plain bytes of one block.
class BlockBuilder {
 public:
  // Keys grow strictly.
  void add(std::string_view key, std::string_view value);
  bool empty() const { return count_ == 0; }
  // Of the block if it were finished now.
  std::size_t bytes() const;
  // At most, with one more record of so many bytes, key and value.
  std::size_t bytes_with(std::size_t record_bytes) const;
  // Starts over.
  std::vector<std::byte> finish();

 private:
  Writer out_;
  std::vector<u32> restarts_;
  std::string last_key_;
  u32 count_ = 0;
};

class TableBlock {
 public:
  // Total: any bytes give a block with at least one record and strictly increasing keys, or
  // corrupt. Takes the bytes over.
  static Result<std::shared_ptr<const TableBlock>> decode(Buffer plain);
  TableBlock() = default;
  TableBlock(const TableBlock&) = delete;

  // Walks records; views stay valid until the cursor moves (key) or the block dies (value).
  class Cursor {
   public:
    bool at_end() const { return at_end_; }
    std::string_view key() const { return key_; }
    std::string_view value() const { return value_; }
    void next();

   private:
    friend class TableBlock;
    explicit Cursor(Bytes records) : rest_(records) { next(); }
    Bytes rest_;
    std::string key_;
    std::string_view value_;
    bool at_end_ = false;
  };
  Cursor begin() const { return Cursor(records_); }
  // The first record whose key is not below `key`.
  Cursor seek(std::string_view key) const;

  u64 memory_bytes() const { return sizeof *this + plain_.size(); }

 private:
  u32 restart(std::size_t index) const;
  std::string_view key_at_restart(std::size_t index) const;

  Buffer plain_;
  Bytes records_;   // of plain_
  Bytes restarts_;  // of plain_: Le<u32> each
};

}  // namespace zerofs::lsm
