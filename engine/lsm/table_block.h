// Keys, blocks, index and footer of a table: encoding and decoding of plain bytes
// (FORMAT.md, "Table"). Sealing is table_writer's and table_reader's business.
#pragma once

#include "engine/base/wire.h"
#include "engine/format/frame.h"

namespace zerofs::lsm {

// ---- keys: 'd' object (8, big-endian) chunk (8, big-endian), or 'm' and the meta key's bytes.
std::string data_key(ObjectId object, u64 chunk);
std::string meta_key(std::string_view key);

struct DataKey {
  ObjectId object;
  u64 chunk = 0;
};
std::optional<DataKey> parse_data_key(std::string_view key);
std::optional<std::string_view> parse_meta_key(std::string_view key);

// ---- blocks

struct BlockRecord {
  std::string key;
  std::string value;  // encoded runs, or a meta value
};

// A decoded block: keys whole, values still encoded.
class TableBlock {
 public:
  // Total: any bytes give a block with strictly increasing keys, or an error.
  static Result<std::shared_ptr<const TableBlock>> decode(Bytes plain);
  const std::vector<BlockRecord>& records() const { return records_; }
  // The first record with a key not below `key`, as an index.
  std::size_t lower_bound(std::string_view key) const;
  u64 memory_bytes() const { return memory_bytes_; }

 private:
  std::vector<BlockRecord> records_;
  u64 memory_bytes_ = 0;
};

// Collects records in key order into the plain bytes of one block, keys prefix-compressed.
class BlockBuilder {
 public:
  void add(std::string_view key, std::string_view value);
  std::size_t bytes() const { return out_.size(); }
  bool empty() const { return count_ == 0; }
  std::vector<std::byte> finish();

 private:
  Writer out_;
  std::string last_key_;
  u32 count_ = 0;
};

// ---- values

// Runs of one chunk; segments are indexes into the table's segment list.
std::string encode_runs(std::span<const Entry> runs, std::span<const u32> segment_to);
// Resolves what it can of `need`. Errors: corrupt.
Result<u32> find_in_runs(std::string_view value, std::span<const SegmentId> segments, u32 need,
                         std::vector<Found>& out);
std::string encode_meta_value(const std::optional<std::string>& value);
Result<std::optional<std::string>> decode_meta_value(std::string_view value);

// ---- index

struct IndexBlock {
  std::string last_key;  // of the block
  format::BlobPointer blob;
};
// References into one segment: what this table keeps alive of it.
struct SegmentUse {
  SegmentId segment;
  u64 bytes = 0;  // of sealed frames, each counted once
};
// Everything but the blocks; one sealed blob.
struct TableIndex {
  std::vector<IndexBlock> blocks;
  std::vector<SegmentUse> segments;
  std::vector<ErasedRange> erased;
  u64 memory_bytes() const;
};
std::vector<std::byte> encode_index(const TableIndex& index);
Result<TableIndex> decode_index(Bytes plain);

// ---- footer: the sealed piece at the very end, before the trailer

struct TableFooter {
  Le<u64> index_offset;
  Le<u32> index_stored_bytes;
  Le<u32> index_plain_bytes;
  Le<u8> index_codec;
  std::byte reserved[7];
  // Filters of the levels above the bottom get their place here: zero when there is none.
  Le<u64> filter_offset;
  Le<u32> filter_stored_bytes;
  Le<u32> filter_plain_bytes;
  Le<u64> entries;
};
static_assert(sizeof(TableFooter) == 48 && alignof(TableFooter) == 1);

constexpr u64 kTableFooterSealedBytes = sizeof(TableFooter) + format::kSealOverhead;  // 68
constexpr u64 kTableFooterRoomBytes = (kTableFooterSealedBytes + 15) / 16 * 16;       // 80
constexpr u64 kTableEndBytes = kTableFooterRoomBytes + 16;  // and the trailer
extern const char kTableMagic[8];

}  // namespace zerofs::lsm
