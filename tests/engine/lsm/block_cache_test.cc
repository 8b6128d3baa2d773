// Goal: the cache stays within its bytes, evicts what was used longest ago, and gives way to
// indexes.
#include "engine/lsm/block_cache.h"

#include <doctest/doctest.h>

namespace zerofs::lsm {

namespace {

constexpr format::TableId kTable{Term{1}, 5};

std::shared_ptr<const TableBlock> block_of(std::size_t value_bytes) {
  BlockBuilder builder;
  builder.add("key", std::string(value_bytes, 'x'));
  return *TableBlock::decode(Buffer::copy_of(builder.finish()));
}

}  // namespace

TEST_CASE("least recently used blocks go first") {
  BlockCache cache(40'000);
  for (u64 i = 0; i < 3; ++i) cache.insert(kTable, i, block_of(10'000));
  CHECK(cache.find(kTable, 0) != nullptr);  // now 1 is the oldest
  cache.insert(kTable, 3, block_of(10'000));
  CHECK(cache.bytes() <= 40'000);
  CHECK(cache.find(kTable, 1) == nullptr);
  for (const u64 kept : {0, 2, 3}) CHECK(cache.find(kTable, kept) != nullptr);
}

TEST_CASE("blocks of other tables and places are other blocks") {
  BlockCache cache(100'000);
  const auto block = block_of(100);
  cache.insert(kTable, 16, block);
  CHECK(cache.find(kTable, 16) == block);
  CHECK(cache.find(kTable, 32) == nullptr);
  CHECK(cache.find({Term{2}, 5}, 16) == nullptr);
  CHECK(cache.find({Term{1}, 6}, 16) == nullptr);
  const u64 bytes = cache.bytes();
  cache.insert(kTable, 16, block_of(100));  // there already
  CHECK(cache.bytes() == bytes);
}

TEST_CASE("an evicted block lives as long as it is held") {
  BlockCache cache(20'000);
  cache.insert(kTable, 0, block_of(10'000));
  const std::shared_ptr<const TableBlock> held = cache.find(kTable, 0);
  cache.charge(20'000);
  CHECK(cache.find(kTable, 0) == nullptr);
  CHECK(held->begin().key() == "key");
  cache.uncharge(20'000);
  CHECK(cache.bytes() == 0);
}

TEST_CASE("a block larger than the cache is not kept") {
  BlockCache cache(1'000);
  cache.insert(kTable, 0, block_of(10'000));
  CHECK(cache.find(kTable, 0) == nullptr);
  CHECK(cache.bytes() == 0);
}

}  // namespace zerofs::lsm
