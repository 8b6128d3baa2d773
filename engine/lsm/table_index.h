// What a table says about itself: index, references into segments, erased ranges, properties, and
// the footer that leads to them (FORMAT.md, "Table"). Plain bytes only; sealing is the business of
// table_writer and table_reader.
#pragma once

#include "engine/format/frame.h"
#include "engine/lsm/table_value.h"

namespace zerofs::lsm {

// What the index keeps of a block: 16 bytes, since a large database has hundreds of thousands.
struct BlockPlace {
  u32 key_end = 0;  // in TableIndex::keys
  u32 ordinal = 0;  // offset / 16
  u32 stored_bytes = 0;
  u32 plain_bytes : 31 = 0;
  u32 is_zstd : 1 = 0;
  format::BlobPointer blob() const {
    return {.offset = u64{ordinal} * format::kPieceAlignment,
            .stored_bytes = stored_bytes,
            .plain_bytes = plain_bytes,
            .codec = is_zstd != 0 ? Codec::zstd : Codec::raw};
  }
  friend bool operator==(const BlockPlace&, const BlockPlace&) = default;
};
static_assert(sizeof(BlockPlace) == 16);

struct TableIndex {
  std::string keys;  // each block's last key, one after the other
  std::vector<BlockPlace> blocks;
  std::vector<SegmentUse> segments;  // as runs number them
  std::vector<ErasedRange> erased;   // as in a layer
  // Properties, also in the manifest.
  u64 entries = 0;
  u64 meta_entries = 0;

  void add_block(std::string_view last_key, const format::BlobPointer& blob);
  std::string_view last_key(std::size_t block) const;
  // The block in which `key` is, if it is in the table; blocks.size() when it is above all.
  std::size_t block_for(std::string_view key) const;
  u64 memory_bytes() const;
  friend bool operator==(const TableIndex&, const TableIndex&) = default;
};

// Upper bounds of what one more of each adds to the encoded index.
constexpr u64 kIndexBytesPerBlock = 32;  // and the key
constexpr u64 kIndexBytesPerSegment = 20;
constexpr u64 kIndexBytesPerErased = 24;

std::vector<std::byte> encode_index(const TableIndex& index);
// Total: any bytes give an index whose blocks fill [0, blocks_end) but for alignment, with strictly
// increasing keys, and sorted disjoint ranges; or corrupt.
Result<TableIndex> decode_index(Bytes plain, u64 blocks_end);

// ---- the end of the object: sealed footer, trailer

struct TableFooter {
  Le<u64> index_offset;
  Le<u32> index_stored_bytes;
  Le<u32> index_plain_bytes;
  Le<u8> index_codec;
  std::byte zero[59];  // page-grained filters get their place here
};
static_assert(sizeof(TableFooter) == 76 && alignof(TableFooter) == 1);

constexpr u64 kTableFooterSealedBytes = sizeof(TableFooter) + format::kSealOverhead;
constexpr u64 kTableEndBytes = kTableFooterSealedBytes + 16;  // and the trailer
static_assert(kTableEndBytes == 112 && kTableEndBytes % format::kPieceAlignment == 0);

TableFooter encode_table_footer(const format::BlobPointer& index);
// Total: where the index is, right below the footer at `footer_offset`, or corrupt.
Result<format::BlobPointer> decode_table_footer(const TableFooter& footer, u64 footer_offset);

}  // namespace zerofs::lsm
