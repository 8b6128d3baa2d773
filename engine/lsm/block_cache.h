// Decoded table blocks and indexes in RAM: a pool of its own, so that scans of data cannot evict
// the index. Least recently used goes first; bounded by bytes.
#pragma once

#include <list>
#include <memory>
#include <unordered_map>

#include "engine/format/names.h"
#include "engine/lsm/table_block.h"

namespace zerofs::lsm {

class BlockCache {
 public:
  explicit BlockCache(u64 bytes_max) : bytes_max_(bytes_max) {}

  // Null when it is not there. An evicted block lives on as long as somebody holds it.
  std::shared_ptr<const TableBlock> find(format::TableId table, u64 offset);
  void insert(format::TableId table, u64 offset, std::shared_ptr<const TableBlock> block);

  // Table indexes are kept by their readers but count against the same limit: blocks give way.
  void charge(u64 bytes) {
    bytes_ += bytes;
    evict();
  }
  void uncharge(u64 bytes) {
    INVARIANT(bytes <= bytes_);
    bytes_ -= bytes;
  }

  u64 bytes() const { return bytes_; }

 private:
  struct Key {
    u64 table;
    u64 offset;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const {
      return (key.table * 0x9e3779b97f4a7c15ull ^ key.offset) * 0xbf58476d1ce4e5b9ull >> 16;
    }
  };
  struct Item {
    Key key;
    std::shared_ptr<const TableBlock> block;
  };
  static Key key_of(format::TableId table, u64 offset) {
    return {table.term.value << kNumberBits | table.number, offset};
  }
  static u64 bytes_of(const Item& item);
  void evict();

  u64 bytes_max_;
  u64 bytes_ = 0;
  std::list<Item> items_;  // most recently used first
  std::unordered_map<Key, std::list<Item>::iterator, Hash> index_;
};

}  // namespace zerofs::lsm
