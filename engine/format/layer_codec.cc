// Layer ↔ bytes (FORMAT.md, "Layer").
#include <algorithm>

#include "engine/base/wire.h"
#include "engine/format/log_object.h"

namespace zerofs::format {

using lsm::Entry;
using lsm::ErasedRange;
using lsm::Layer;
using lsm::MetaEntry;
using lsm::Run;
using lsm::RunKind;

std::vector<std::byte> encode_layer(const Layer& layer) {
  Writer out;
  out.put_varint(layer.objects.size());
  u64 previous = 0;
  for (const ObjectId id : layer.objects) {
    out.put_varint(id.value - previous);
    previous = id.value;
  }
  out.put_varint(layer.segments.size());
  previous = 0;
  for (const lsm::SegmentId id : layer.segments) {
    out.put_varint(id.value - previous);
    previous = id.value;
  }
  out.put_varint(layer.entries.size());
  previous = 0;
  u64 next_offset16 = 0;
  for (const Entry& entry : layer.entries) {
    out.put_varint(entry.key - previous);
    previous = entry.key;
    out.put_varint(static_cast<u64>(entry.run.kind()));
    out.put<u32>(entry.run.mask);
    if (entry.run.kind() != RunKind::data) continue;
    const lsm::FramePointer frame = entry.run.frame();
    out.put_varint(entry.run.segment);
    // Frames follow one another in a log object, so the distance is nearly always zero.
    const i64 distance = static_cast<i64>(frame.offset / 16 - next_offset16);
    out.put_varint(static_cast<u64>(distance) << 1 ^ static_cast<u64>(distance >> 63));
    out.put_varint(frame.stored_bytes);
    out.put<u8>(static_cast<u8>(frame.first_page));
    out.put<u8>(static_cast<u8>((frame.page_count - 1) | static_cast<u8>(frame.codec) << 4));
    next_offset16 = align_piece(frame.offset + frame.stored_bytes) / 16;
  }
  out.put_varint(layer.erased.size());
  for (const ErasedRange& range : layer.erased) {
    out.put_varint(range.object.value);
    out.put_varint(range.first);
    out.put_varint(range.last - range.first);
    out.put<u8>(range.whole_object ? 1 : 0);
  }
  out.put_varint(layer.meta.size());
  for (const MetaEntry& entry : layer.meta) {
    out.put_text(entry.key);
    out.put<u8>(entry.value ? 1 : 0);
    if (entry.value) out.put_text(*entry.value);
  }
  return out.take();
}

namespace {
// A count is believed only as far as the bytes that are left could hold that many.
bool read_count(Reader& in, u64 bytes_each_min, u64& count) {
  count = in.get_varint();
  return in.ok() && count <= in.left() / bytes_each_min;
}
}  // namespace

Result<Layer> decode_layer(Bytes bytes) {
  Reader in(bytes);
  Layer layer;
  u64 count = 0;
  if (!read_count(in, 1, count)) return corrupt("layer: objects");
  u64 previous = 0;
  for (u64 i = 0; i < count; ++i) layer.objects.push_back({previous += in.get_varint()});
  if (!read_count(in, 1, count)) return corrupt("layer: segments");
  previous = 0;
  for (u64 i = 0; i < count; ++i) layer.segments.push_back({previous += in.get_varint()});

  if (!read_count(in, 6, count)) return corrupt("layer: entries");
  layer.entries.reserve(count);
  previous = 0;
  u64 next_offset16 = 0;
  for (u64 i = 0; i < count; ++i) {
    const u64 key = previous += in.get_varint();
    const u64 kind = in.get_varint();
    const u32 mask = in.get<u32>();
    if (kind == static_cast<u64>(RunKind::data)) {
      const u64 segment = in.get_varint();
      const u64 folded = in.get_varint();
      const u64 distance = folded >> 1 ^ (~(folded & 1) + 1);
      const u64 offset16 = next_offset16 + distance;
      const u64 stored = in.get_varint();
      const u8 first_page = in.get<u8>();
      const u8 tail = in.get<u8>();
      const u8 page_count = static_cast<u8>((tail & 7) + 1);
      if (!in.ok() || segment >= layer.segments.size() || offset16 > UINT32_MAX ||
          stored >= 1u << 17 || stored < kSealOverhead || first_page >= kPagesPerChunk ||
          (tail & 0xc8) != 0 || (tail >> 4) > 1) {
        return corrupt("layer: run");
      }
      const lsm::FramePointer frame{.offset = offset16 * 16,
                                    .stored_bytes = static_cast<u32>(stored),
                                    .first_page = first_page,
                                    .page_count = page_count,
                                    .codec = static_cast<Codec>(tail >> 4)};
      layer.entries.push_back({key, Run::data(mask, static_cast<u32>(segment), frame)});
      next_offset16 = align_piece(frame.offset + frame.stored_bytes) / 16;
    } else if (kind == static_cast<u64>(RunKind::zero) || kind == static_cast<u64>(RunKind::hole)) {
      layer.entries.push_back({key, Run::empty(mask, static_cast<RunKind>(kind))});
    } else {
      return corrupt("layer: run kind");
    }
  }
  if (!read_count(in, 4, count)) return corrupt("layer: erased ranges");
  for (u64 i = 0; i < count; ++i) {
    ErasedRange range;
    range.object.value = in.get_varint();
    range.first = in.get_varint();
    const u64 more = in.get_varint();
    const u8 whole = in.get<u8>();
    if (range.first > kChunkIndexMax || more > kChunkIndexMax - range.first || whole > 1) {
      return corrupt("layer: erased range");
    }
    range.last = range.first + more;
    range.whole_object = whole == 1;
    layer.erased.push_back(range);
  }
  if (!read_count(in, 2, count)) return corrupt("layer: meta");
  for (u64 i = 0; i < count; ++i) {
    MetaEntry entry;
    entry.key = in.get_text();
    const u8 present = in.get<u8>();
    if (present > 1) return corrupt("layer: meta");
    if (present == 1) entry.value = std::string(in.get_text());
    layer.meta.push_back(std::move(entry));
  }
  if (!in.ok() || !in.at_end()) return corrupt("layer: cut short or too long");
  if (!lsm::check_layer(layer)) return corrupt("layer: out of order");
  return layer;
}

}  // namespace zerofs::format
