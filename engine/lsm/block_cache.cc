#include "engine/lsm/block_cache.h"

namespace zerofs::lsm {

u64 BlockCache::bytes_of(const Item& item) {
  constexpr u64 kOverheadBytes = 128;  // list node, hash node and bucket
  return item.block->memory_bytes() + kOverheadBytes;
}

std::shared_ptr<const TableBlock> BlockCache::find(format::TableId table, u64 offset) {
  const auto at = index_.find(key_of(table, offset));
  if (at == index_.end()) return nullptr;
  items_.splice(items_.begin(), items_, at->second);
  return at->second->block;
}

void BlockCache::insert(format::TableId table, u64 offset,
                        std::shared_ptr<const TableBlock> block) {
  INVARIANT(block != nullptr);
  const Key key = key_of(table, offset);
  if (index_.contains(key)) return;
  items_.push_front({key, std::move(block)});
  index_[key] = items_.begin();
  bytes_ += bytes_of(items_.front());
  evict();
}

void BlockCache::evict() {
  while (bytes_ > bytes_max_ && !items_.empty()) {
    bytes_ -= bytes_of(items_.back());
    index_.erase(items_.back().key);
    items_.pop_back();
  }
}

}  // namespace zerofs::lsm
