// Layer ↔ bytes (FORMAT.md, "Layer").
//
// The encoder leans on how sealing lays things out: keys grow, frames follow one another, raw frames
// have the length of their pages. What is as expected costs no bytes beyond the head.
#include "engine/base/wire.h"
#include "engine/format/log_object.h"

namespace zerofs::format {

using lsm::Entry;
using lsm::ErasedRange;
using lsm::FramePointer;
using lsm::Layer;
using lsm::MetaEntry;
using lsm::Run;
using lsm::RunKind;

namespace {

constexpr u32 kChunkBits = 40;
constexpr u64 kSharedBytesMax = 255;

// The head byte of an entry.
constexpr u8 kKindMask = 3;
constexpr u8 kStepShift = 2;
constexpr u8 kStepMask = 3;
constexpr u8 kMaskFollows = 1 << 4;
constexpr u8 kPlaceFollows = 1 << 5;
constexpr u8 kZstd = 1 << 6;
constexpr u8 kStoredFollows = 1 << 7;
enum Step : u8 { same_chunk, next_chunk, chunks_on, objects_on };

u32 raw_stored_bytes(u32 page_count) { return page_count * kPageBytes + kSealOverhead; }
u32 pages_mask(u32 page_count) { return (u32{1} << page_count) - 1; }

// What both sides know before an entry.
struct Context {
  u64 object = 0;
  u64 chunk = 0;
  u32 segment = 0;
  u64 offset = 0;

  bool follows(const Run& run) const {
    return run.segment == segment && run.frame().offset == offset;
  }
  void advance(u32 run_segment, const FramePointer& frame) {
    segment = run_segment;
    offset = align_piece(frame.offset + frame.stored_bytes);
  }
};

template <class T>
void put_ids(Writer& out, const std::vector<T>& ids) {
  out.put_varint(ids.size());
  u64 previous = 0;
  for (const T id : ids) {
    out.put_varint(id.value - previous);
    previous = id.value;
  }
}

void put_entry(Writer& out, Context& context, const Entry& entry) {
  const u64 object = entry.key >> kChunkBits;
  const u64 chunk = entry.key & kChunkIndexMax;
  const Run& run = entry.run;
  const FramePointer frame = run.frame();
  const bool is_data = run.kind() == RunKind::data;
  INVARIANT(!is_data || frame.codec <= Codec::zstd);

  Step step = objects_on;
  if (object == context.object) {
    step = chunk == context.chunk ? same_chunk : chunk == context.chunk + 1 ? next_chunk : chunks_on;
  }
  u8 head = static_cast<u8>(static_cast<u8>(run.kind()) | step << kStepShift);
  const u32 mask = is_data ? run.mask >> frame.first_page : run.mask;
  const u32 full = is_data ? pages_mask(frame.page_count) : ~u32{0};
  INVARIANT((mask & ~full) == 0 && (!is_data || mask << frame.first_page == run.mask));
  if (mask != full) head |= kMaskFollows;
  if (is_data) {
    if (!context.follows(run)) head |= kPlaceFollows;
    if (frame.codec == Codec::zstd) head |= kZstd;
    if (frame.stored_bytes != raw_stored_bytes(frame.page_count)) head |= kStoredFollows;
  }

  out.put<u8>(head);
  if (step == chunks_on) out.put_varint(chunk - context.chunk);
  if (step == objects_on) {
    out.put_varint(object - context.object);
    out.put_varint(chunk);
  }
  if (is_data) out.put<u8>(static_cast<u8>(frame.first_page | (frame.page_count - 1) << 5));
  if ((head & kMaskFollows) != 0) {
    if (is_data) {
      out.put<u8>(static_cast<u8>(mask));
    } else {
      out.put<u32>(mask);
    }
  }
  if ((head & kPlaceFollows) != 0) {
    out.put_varint(run.segment);
    out.put_varint(frame.offset / kPieceAlignment);
  }
  if ((head & kStoredFollows) != 0) out.put_varint(frame.stored_bytes);
  context.object = object;
  context.chunk = chunk;
  if (is_data) context.advance(run.segment, frame);
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

void put_meta(Writer& out, const std::vector<MetaEntry>& meta) {
  out.put_varint(meta.size());
  std::string_view previous;
  for (const MetaEntry& entry : meta) {
    const std::string_view key = entry.key;
    u64 shared = 0;
    while (shared < kSharedBytesMax && shared < key.size() && shared < previous.size() &&
           key[shared] == previous[shared]) {
      ++shared;
    }
    out.put<u8>(static_cast<u8>(shared));
    out.put_text(key.substr(shared));
    out.put_varint(entry.value ? entry.value->size() + 1 : 0);
    if (entry.value) out.put_raw(bytes_of(*entry.value));
    previous = key;
  }
}

// A count is believed only as far as the bytes that are left could hold that many.
bool get_count(Reader& in, u64 item_bytes_min, u64& count) {
  count = in.get_varint();
  return in.ok() && count <= in.left() / item_bytes_min;
}

template <class T>
bool get_ids(Reader& in, std::vector<T>& ids) {
  u64 count = 0;
  if (!get_count(in, 1, count)) return false;
  ids.reserve(count);
  u64 value = 0;
  // A sum that wraps is not increasing; check_layer sees it.
  for (u64 i = 0; i < count; ++i) ids.push_back({value += in.get_varint()});
  return in.ok();
}

bool get_key(Reader& in, Context& context, Step step, std::size_t object_count) {
  u64 more = step == next_chunk ? 1 : 0;
  if (step == chunks_on) more = in.get_varint();
  if (step == objects_on) {
    const u64 objects = in.get_varint();
    if (objects >= object_count - context.object) return false;
    context.object += objects;
    context.chunk = 0;
    more = in.get_varint();
  }
  if (more > kChunkIndexMax - context.chunk) return false;
  context.chunk += more;
  return true;
}

// What follows the key of a data run; none when that is no possible run.
std::optional<Run> get_data_run(Reader& in, Context& context, u8 head, std::size_t segment_count) {
  const u8 pages = in.get<u8>();
  FramePointer frame{.offset = context.offset,
                     .first_page = static_cast<u8>(pages & 31),
                     .page_count = static_cast<u8>((pages >> 5) + 1),
                     .codec = (head & kZstd) != 0 ? Codec::zstd : Codec::raw};
  const u32 full = pages_mask(frame.page_count);
  const u32 mask = (head & kMaskFollows) != 0 ? in.get<u8>() : full;
  u64 segment = context.segment;
  if ((head & kPlaceFollows) != 0) {
    segment = in.get_varint();
    const u64 ordinal = in.get_varint();
    if (ordinal > UINT32_MAX) return {};
    frame.offset = ordinal * kPieceAlignment;
  }
  const u64 stored = (head & kStoredFollows) != 0 ? in.get_varint()
                                                  : raw_stored_bytes(frame.page_count);
  const bool possible = frame.first_page + frame.page_count <= kPagesPerChunk &&
                        (mask & ~full) == 0 && segment < segment_count && stored < 1u << 17 &&
                        frame.offset / kPieceAlignment <= UINT32_MAX;
  if (!possible) return {};
  frame.stored_bytes = static_cast<u32>(stored);
  context.advance(static_cast<u32>(segment), frame);
  return Run::data(mask << frame.first_page, static_cast<u32>(segment), frame);
}

bool get_entries(Reader& in, Layer& layer) {
  u64 count = 0;
  if (!get_count(in, 1, count)) return false;
  if (count != 0 && layer.objects.empty()) return false;
  layer.entries.reserve(count);
  Context context;
  for (u64 i = 0; i < count; ++i) {
    const u8 head = in.get<u8>();
    const u8 kind = head & kKindMask;
    const auto step = static_cast<Step>(head >> kStepShift & kStepMask);
    if (!in.ok() || kind > static_cast<u8>(RunKind::hole)) return false;
    if (!get_key(in, context, step, layer.objects.size())) return false;
    std::optional<Run> run;
    if (kind == static_cast<u8>(RunKind::data)) {
      run = get_data_run(in, context, head, layer.segments.size());
    } else if ((head & (kPlaceFollows | kZstd | kStoredFollows)) == 0) {
      const u32 mask = (head & kMaskFollows) != 0 ? in.get<u32>() : ~u32{0};
      run = Run::empty(mask, static_cast<RunKind>(kind));
    }
    if (!run || !in.ok()) return false;
    layer.entries.push_back({context.object << kChunkBits | context.chunk, *run});
  }
  return true;
}

bool get_erased(Reader& in, Layer& layer) {
  u64 count = 0;
  if (!get_count(in, 3, count)) return false;
  layer.erased.reserve(count);
  u64 object = 0;
  u64 last = 0;
  for (u64 i = 0; i < count; ++i) {
    const u64 objects = in.get_varint();
    if (objects != 0) last = 0;
    object += objects;
    const u64 gap = in.get_varint();
    const u64 length = in.get_varint();
    if (gap > kChunkIndexMax - last || length >> 1 > kChunkIndexMax - last - gap) return false;
    const u64 first = last + gap;
    last = first + (length >> 1);
    layer.erased.push_back({{object}, first, last, (length & 1) != 0});
  }
  return in.ok();
}

bool get_meta(Reader& in, Layer& layer) {
  u64 count = 0;
  if (!get_count(in, 3, count)) return false;
  layer.meta.reserve(count);
  for (u64 i = 0; i < count; ++i) {
    MetaEntry entry;
    const u8 shared = in.get<u8>();
    const std::string_view rest = in.get_text();
    const u64 value = in.get_varint();
    if (shared != 0) {
      if (i == 0 || shared > layer.meta.back().key.size()) return false;
      entry.key = layer.meta.back().key.substr(0, shared);
    }
    entry.key += rest;
    if (value != 0) entry.value = std::string(text_of(in.get_raw(value - 1)));
    if (!in.ok()) return false;
    layer.meta.push_back(std::move(entry));
  }
  return true;
}

}  // namespace

std::vector<std::byte> encode_layer(const Layer& layer) {
  Writer out;
  put_ids(out, layer.objects);
  put_ids(out, layer.segments);
  out.put_varint(layer.entries.size());
  Context context;
  for (const Entry& entry : layer.entries) put_entry(out, context, entry);
  put_erased(out, layer.erased);
  put_meta(out, layer.meta);
  return out.take();
}

Result<Layer> decode_layer(Bytes bytes) {
  Reader in(bytes);
  Layer layer;
  if (!get_ids(in, layer.objects)) return corrupt("layer: objects, bytes left", in.left());
  if (!get_ids(in, layer.segments)) return corrupt("layer: segments, bytes left", in.left());
  if (!get_entries(in, layer)) return corrupt("layer: entries, bytes left", in.left());
  if (!get_erased(in, layer)) return corrupt("layer: erased ranges, bytes left", in.left());
  if (!get_meta(in, layer)) return corrupt("layer: meta, bytes left", in.left());
  if (!in.at_end()) return corrupt("layer: too long, bytes left", in.left());
  if (!lsm::check_layer(layer)) return corrupt("layer: out of order");
  return layer;
}

}  // namespace zerofs::format
