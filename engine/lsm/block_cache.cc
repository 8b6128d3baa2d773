#include "engine/lsm/block_cache.h"

namespace zerofs::lsm {

std::shared_ptr<const TableBlock> BlockCache::find(format::TableId table, u64 offset) {
  const auto at = index_.find(key_of(table, offset));
  if (at == index_.end()) return nullptr;
  items_.splice(items_.begin(), items_, at->second);
  return at->second->block;
}

void BlockCache::insert(format::TableId table, u64 offset,
                        std::shared_ptr<const TableBlock> block) {
  const Key key = key_of(table, offset);
  if (index_.contains(key)) return;
  bytes_ += block->memory_bytes();
  items_.push_front({key, std::move(block)});
  index_[key] = items_.begin();
  evict();
}

void BlockCache::evict() {
  while (bytes_ > bytes_max_ && !items_.empty()) {
    const Item& last = items_.back();
    bytes_ -= last.block->memory_bytes();
    index_.erase(last.key);
    items_.pop_back();
  }
}

}  // namespace zerofs::lsm
