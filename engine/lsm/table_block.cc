#include "engine/lsm/table_block.h"

#include <algorithm>
#include <bit>

namespace zerofs::lsm {

const char kTableMagic[8] = {'z', 'f', 's', '-', 's', 's', 't', '1'};

namespace {
void append_be(std::string& out, u64 value) {
  const Be<u64> be = value;
  out.append(reinterpret_cast<const char*>(be.raw), 8);
}
u64 read_be(std::string_view text) {
  Be<u64> be;
  std::memcpy(be.raw, text.data(), 8);
  return be;
}
}  // namespace

std::string data_key(ObjectId object, u64 chunk) {
  std::string key = "d";
  append_be(key, object.value);
  append_be(key, chunk);
  return key;
}
std::string meta_key(std::string_view key) { return "m" + std::string(key); }

std::optional<DataKey> parse_data_key(std::string_view key) {
  if (key.size() != 17 || key[0] != 'd') return {};
  const u64 chunk = read_be(key.substr(9));
  if (chunk > kChunkIndexMax) return {};
  return DataKey{{read_be(key.substr(1))}, chunk};
}
std::optional<std::string_view> parse_meta_key(std::string_view key) {
  if (key.empty() || key[0] != 'm') return {};
  return key.substr(1);
}

// ---- blocks

void BlockBuilder::add(std::string_view key, std::string_view value) {
  const std::size_t limit = std::min(key.size(), last_key_.size());
  std::size_t shared = 0;
  while (shared < limit && key[shared] == last_key_[shared]) ++shared;
  out_.put_varint(shared);
  out_.put_text(key.substr(shared));
  out_.put_text(value);
  last_key_ = key;
  ++count_;
}

std::vector<std::byte> BlockBuilder::finish() {
  last_key_.clear();
  count_ = 0;
  return std::exchange(out_, Writer()).take();
}

Result<std::shared_ptr<const TableBlock>> TableBlock::decode(Bytes plain) {
  auto block = std::make_shared<TableBlock>();
  Reader in(plain);
  std::string key;
  while (in.ok() && !in.at_end()) {
    const u64 shared = in.get_varint();
    if (shared > key.size()) return corrupt("table block: shared prefix");
    std::string next = key.substr(0, shared);
    next += in.get_text();
    const std::string_view value = in.get_text();
    if (!in.ok()) break;
    if (!block->records_.empty() && next <= key) return corrupt("table block: keys out of order");
    key = next;
    block->memory_bytes_ += sizeof(BlockRecord) + next.size() + value.size();
    block->records_.push_back({std::move(next), std::string(value)});
  }
  if (!in.ok() || block->records_.empty()) return corrupt("table block: cut short");
  return block;
}

std::size_t TableBlock::lower_bound(std::string_view key) const {
  const auto at = std::ranges::lower_bound(
      records_, key, {}, [](const BlockRecord& record) { return std::string_view(record.key); });
  return static_cast<std::size_t>(at - records_.begin());
}

// ---- values

std::string encode_runs(std::span<const Entry> runs, std::span<const u32> segment_to) {
  Writer out;
  for (const Entry& entry : runs) {
    const Run& run = entry.run;
    const FramePointer frame = run.frame();
    // One byte says what follows: kind, codec, pages in the frame.
    out.put<u8>(static_cast<u8>(static_cast<u8>(run.kind()) | static_cast<u8>(frame.codec) << 2 |
                                (frame.page_count - 1) << 4));
    if (run.kind() != RunKind::data) {
      out.put<u32>(run.mask);
      continue;
    }
    // The mask relative to the frame's first page fits a byte.
    out.put<u8>(frame.first_page);
    out.put<u8>(static_cast<u8>(run.mask >> frame.first_page));
    out.put_varint(segment_to[run.segment]);
    out.put_varint(frame.offset / 16);
    out.put_varint(frame.stored_bytes);
  }
  return std::string(text_of(out.bytes()));
}

Result<u32> find_in_runs(std::string_view value, std::span<const SegmentId> segments, u32 need,
                         std::vector<Found>& out) {
  Reader in(bytes_of(value));
  while (in.ok() && !in.at_end() && need != 0) {
    const u8 head = in.get<u8>();
    const u8 kind = head & 3;
    Found found;
    if (kind == static_cast<u8>(RunKind::data)) {
      const u8 first_page = in.get<u8>();
      const u8 relative = in.get<u8>();
      const u64 segment = in.get_varint();
      const u64 offset16 = in.get_varint();
      const u64 stored = in.get_varint();
      const u8 page_count = static_cast<u8>((head >> 4 & 7) + 1);
      if (!in.ok() || (head & 0x80) != 0 || (head >> 2 & 3) > 1 ||
          first_page + page_count > kPagesPerChunk || relative == 0 ||
          (relative >> page_count) != 0 || segment >= segments.size() || offset16 > UINT32_MAX ||
          stored >= 1u << 17 || stored < format::kSealOverhead) {
        return corrupt("table: run");
      }
      found.mask = u32{relative} << first_page;
      found.kind = RunKind::data;
      found.segment = segments[segment];
      found.frame = {.offset = offset16 * 16,
                     .stored_bytes = static_cast<u32>(stored),
                     .first_page = first_page,
                     .page_count = page_count,
                     .codec = static_cast<Codec>(head >> 2 & 3)};
    } else {
      found.mask = in.get<u32>();
      if (!in.ok() || kind > 2 || found.mask == 0) return corrupt("table: run");
      found.kind = static_cast<RunKind>(kind);
    }
    found.mask &= need;
    if (found.mask == 0) continue;
    need &= ~found.mask;
    out.push_back(found);
  }
  if (!in.ok()) return corrupt("table: runs cut short");
  return need;
}

std::string encode_meta_value(const std::optional<std::string>& value) {
  return value ? "+" + *value : "-";
}
Result<std::optional<std::string>> decode_meta_value(std::string_view value) {
  if (value == "-") return std::optional<std::string>();
  if (value.empty() || value[0] != '+') return corrupt("table: meta value");
  return std::optional<std::string>(value.substr(1));
}

// ---- index

u64 TableIndex::memory_bytes() const {
  u64 bytes = sizeof *this + segments.size() * sizeof(SegmentUse) +
              erased.size() * sizeof(ErasedRange);
  for (const IndexBlock& block : blocks) bytes += sizeof block + block.last_key.size();
  return bytes;
}

std::vector<std::byte> encode_index(const TableIndex& index) {
  Writer out;
  out.put_varint(index.blocks.size());
  for (const IndexBlock& block : index.blocks) {
    out.put_text(block.last_key);
    out.put_varint(block.blob.offset / 16);
    out.put_varint(block.blob.stored_bytes);
    out.put_varint(block.blob.plain_bytes);
    out.put<u8>(static_cast<u8>(block.blob.codec));
  }
  out.put_varint(index.segments.size());
  u64 previous = 0;
  for (const SegmentUse& use : index.segments) {
    out.put_varint(use.segment.value - previous);
    out.put_varint(use.bytes);
    previous = use.segment.value;
  }
  out.put_varint(index.erased.size());
  for (const ErasedRange& range : index.erased) {
    out.put_varint(range.object.value);
    out.put_varint(range.first);
    out.put_varint(range.last - range.first);
    out.put<u8>(range.whole_object ? 1 : 0);
  }
  return out.take();
}

Result<TableIndex> decode_index(Bytes plain) {
  Reader in(plain);
  TableIndex index;
  u64 count = in.get_varint();
  if (!in.ok() || count > in.left() / 5) return corrupt("table index: blocks");
  for (u64 i = 0; i < count; ++i) {
    IndexBlock block;
    block.last_key = in.get_text();
    const u64 offset16 = in.get_varint();
    const u64 stored = in.get_varint();
    const u64 plain_bytes = in.get_varint();
    const u8 codec = in.get<u8>();
    if (!in.ok() || offset16 > UINT32_MAX || stored > format::kBlobBytesMax ||
        plain_bytes > format::kBlobBytesMax || codec > 1 ||
        (!index.blocks.empty() && block.last_key <= index.blocks.back().last_key)) {
      return corrupt("table index: block");
    }
    block.blob = {.offset = offset16 * 16,
                  .stored_bytes = static_cast<u32>(stored),
                  .plain_bytes = static_cast<u32>(plain_bytes),
                  .codec = static_cast<Codec>(codec)};
    index.blocks.push_back(std::move(block));
  }
  count = in.get_varint();
  if (!in.ok() || count > in.left() / 2) return corrupt("table index: segments");
  u64 previous = 0;
  for (u64 i = 0; i < count; ++i) {
    const u64 distance = in.get_varint();
    const u64 bytes = in.get_varint();
    if (i != 0 && distance == 0) return corrupt("table index: segments out of order");
    index.segments.push_back({{previous += distance}, bytes});
  }
  count = in.get_varint();
  if (!in.ok() || count > in.left() / 4) return corrupt("table index: erased ranges");
  for (u64 i = 0; i < count; ++i) {
    ErasedRange range;
    range.object.value = in.get_varint();
    range.first = in.get_varint();
    const u64 more = in.get_varint();
    const u8 whole = in.get<u8>();
    if (range.first > kChunkIndexMax || more > kChunkIndexMax - range.first || whole > 1) {
      return corrupt("table index: erased range");
    }
    range.last = range.first + more;
    range.whole_object = whole == 1;
    index.erased.push_back(range);
  }
  if (!in.ok() || !in.at_end()) return corrupt("table index: cut short or too long");
  return index;
}

}  // namespace zerofs::lsm
