#include "engine/lsm/table_index.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "engine/lsm/layer_parts.h"

namespace zerofs::lsm {

namespace {

// Segments come as runs first use them, so differences have both signs; kind is moved to the lowest
// bit so that they stay small.
u64 zigzag(u64 difference) {
  return difference << 1 ^ (0 - (difference >> 63));
}
u64 unzigzag(u64 coded) {
  return coded >> 1 ^ (0 - (coded & 1));
}
u64 rotated(SegmentId segment) {
  return std::rotl(segment.value, 1);
}

bool get_count(Reader& in, u64 item_bytes_min, u64& count) {
  count = in.get_varint();
  return in.ok() && count <= in.left() / item_bytes_min;
}

void put_blocks(Writer& out, const TableIndex& index) {
  out.put_varint(index.blocks.size());
  std::string_view previous;
  for (std::size_t i = 0; i < index.blocks.size(); ++i) {
    const std::string_view key = index.last_key(i);
    std::size_t shared = 0;
    const std::size_t limit = std::min(key.size(), previous.size());
    while (shared < limit && key[shared] == previous[shared]) ++shared;
    out.put_varint(shared);
    out.put_text(key.substr(shared));
    out.put_varint(u64{index.blocks[i].plain_bytes} << 1 | index.blocks[i].is_zstd);
    out.put_varint(index.blocks[i].stored_bytes);
    previous = key;
  }
}

Result<> get_blocks(Reader& in, u64 blocks_end, TableIndex& index) {
  u64 count = 0;
  if (!get_count(in, 4, count)) return corrupt("table index: blocks", count);
  index.blocks.reserve(count);
  std::string key;
  u64 offset = 0;
  for (u64 i = 0; i < count; ++i) {
    const u64 shared = in.get_varint();
    const std::string_view rest = in.get_text();
    const u64 plain = in.get_varint();
    const u64 stored = in.get_varint();
    if (!in.ok() || shared > key.size()) return corrupt("table index: block", i);
    if (rest <= std::string_view(key).substr(shared)) {
      return corrupt("table index: keys out of order", i);
    }
    key.resize(shared);
    key += rest;
    // Keys may share much, so their sum has a bound of its own.
    if (index.keys.size() + key.size() > format::kBlobBytesMax) {
      return corrupt("table index: keys too long", i);
    }
    if (plain >> 1 > format::kBlobBytesMax || offset >= blocks_end || stored == 0 ||
        stored > blocks_end - offset) {
      return corrupt("table index: block lies outside", i);
    }
    index.add_block(key, {.offset = offset,
                          .stored_bytes = static_cast<u32>(stored),
                          .plain_bytes = static_cast<u32>(plain >> 1),
                          .codec = (plain & 1) != 0 ? Codec::zstd : Codec::raw});
    offset = format::align_piece(offset + stored);
  }
  if (offset != blocks_end) return corrupt("table index: blocks end elsewhere", offset);
  return {};
}

void put_erased(Writer& out, const std::vector<ErasedRange>& erased) {
  out.put_varint(erased.size());
  u64 object = 0;
  u64 last = 0;
  for (const ErasedRange& range : erased) {
    if (range.object.value != object) last = 0;
    out.put_varint(range.object.value - object);
    out.put_varint(range.first - last);
    out.put_varint((range.last - range.first) << 1 | (range.whole_object ? 1 : 0));
    object = range.object.value;
    last = range.last;
  }
}

Result<> get_erased(Reader& in, TableIndex& index) {
  u64 count = 0;
  if (!get_count(in, 3, count)) return corrupt("table index: erased ranges", count);
  index.erased.reserve(count);
  u64 object = 0;
  u64 last = 0;
  for (u64 i = 0; i < count; ++i) {
    const u64 objects = in.get_varint();
    const u64 gap = in.get_varint();
    const u64 length = in.get_varint();
    if (objects > ~u64{0} - object) return corrupt("table index: erased object", i);
    if (objects != 0) last = 0;
    object += objects;
    if (!in.ok() || gap > kChunkIndexMax - last || length >> 1 > kChunkIndexMax - last - gap) {
      return corrupt("table index: erased range", i);
    }
    // Ranges of one object that touch would be one.
    if (i != 0 && objects == 0 && gap < 2) return corrupt("table index: erased ranges touch", i);
    const u64 first = last + gap;
    last = first + (length >> 1);
    index.erased.push_back({{object}, first, last, (length & 1) != 0});
  }
  return {};
}

}  // namespace

void TableIndex::add_block(std::string_view last_key, const format::BlobPointer& blob) {
  INVARIANT(blob.offset % format::kPieceAlignment == 0 && blob.codec <= Codec::zstd);
  keys += last_key;
  INVARIANT(keys.size() <= UINT32_MAX);
  blocks.push_back({.key_end = static_cast<u32>(keys.size()),
                    .ordinal = static_cast<u32>(blob.offset / format::kPieceAlignment),
                    .stored_bytes = blob.stored_bytes,
                    .plain_bytes = blob.plain_bytes,
                    .is_zstd = blob.codec == Codec::zstd ? 1u : 0u});
}

std::string_view TableIndex::last_key(std::size_t block) const {
  const u32 begin = block == 0 ? 0 : blocks[block - 1].key_end;
  return std::string_view(keys).substr(begin, blocks[block].key_end - begin);
}

std::size_t TableIndex::block_for(std::string_view key) const {
  std::size_t low = 0;
  std::size_t high = blocks.size();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (last_key(middle) < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

u64 TableIndex::memory_bytes() const {
  return sizeof *this + keys.capacity() + blocks.capacity() * sizeof(BlockPlace) +
         segments.capacity() * sizeof(SegmentUse) + erased.capacity() * sizeof(ErasedRange);
}

std::vector<std::byte> encode_index(const TableIndex& index) {
  Writer out;
  out.put_varint(index.entries);
  out.put_varint(index.meta_entries);
  put_blocks(out, index);
  out.put_varint(index.segments.size());
  u64 previous = 0;
  for (const SegmentUse& use : index.segments) {
    out.put_varint(zigzag(rotated(use.segment) - previous));
    out.put_varint(use.bytes);
    previous = rotated(use.segment);
  }
  put_erased(out, index.erased);
  return out.take();
}

Result<TableIndex> decode_index(Bytes plain, u64 blocks_end) {
  Reader in(plain);
  TableIndex index;
  index.entries = in.get_varint();
  index.meta_entries = in.get_varint();
  TRY_VOID(get_blocks(in, blocks_end, index));
  u64 count = 0;
  if (!get_count(in, 2, count)) return corrupt("table index: segments", count);
  index.segments.reserve(count);
  u64 previous = 0;
  for (u64 i = 0; i < count; ++i) {
    previous += unzigzag(in.get_varint());
    index.segments.push_back({{std::rotr(previous, 1)}, in.get_varint()});
  }
  TRY_VOID(get_erased(in, index));
  if (!in.ok() || !in.at_end()) return corrupt("table index: bytes left", in.left());
  return index;
}

TableFooter encode_table_footer(const format::BlobPointer& index) {
  TableFooter footer{};
  footer.index_offset = index.offset;
  footer.index_stored_bytes = index.stored_bytes;
  footer.index_plain_bytes = index.plain_bytes;
  footer.index_codec = static_cast<u8>(index.codec);
  return footer;
}

Result<format::BlobPointer> decode_table_footer(const TableFooter& footer, u64 footer_offset) {
  const format::BlobPointer index{.offset = footer.index_offset,
                                  .stored_bytes = footer.index_stored_bytes,
                                  .plain_bytes = footer.index_plain_bytes,
                                  .codec = static_cast<Codec>(u8{footer.index_codec})};
  // The index fills the room between the blocks and the footer, but for alignment.
  const bool fits = index.offset % format::kPieceAlignment == 0 && index.offset < footer_offset &&
                    format::align_piece(index.offset + index.stored_bytes) == footer_offset;
  if (!fits) return corrupt("table footer: the index lies elsewhere", index.offset);
  if (index.codec > Codec::zstd || index.plain_bytes > format::kBlobBytesMax) {
    return corrupt("table footer: impossible index");
  }
  return index;
}

}  // namespace zerofs::lsm
