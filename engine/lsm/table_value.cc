#include "engine/lsm/table_value.h"

#include "engine/format/cipher.h"
#include "engine/lsm/layer_parts.h"

namespace zerofs::lsm {

namespace {

// The head byte of a run.
constexpr u8 kKindMask = 3;
constexpr u8 kZstd = 1 << 2;
constexpr u8 kMaskFollows = 1 << 3;
constexpr u8 kStoredFollows = 1 << 4;
constexpr u8 kHeadBits = kKindMask | kZstd | kMaskFollows | kStoredFollows;

constexpr char kPresent = '+';
constexpr char kDeleted = '-';

u32 raw_stored_bytes(u32 page_count) {
  return page_count * kPageBytes + format::kSealOverhead;
}

Result<Found> get_data_run(Reader& in, u8 head, std::span<const SegmentUse> segments) {
  const u8 pages = in.get<u8>();
  FramePointer frame{.first_page = static_cast<u8>(pages & 31),
                     .page_count = static_cast<u8>((pages >> 5) + 1),
                     .codec = (head & kZstd) != 0 ? Codec::zstd : Codec::raw};
  if (frame.first_page + frame.page_count > kPagesPerChunk) return corrupt("table run: pages");
  const u32 full = frame_mask(frame);
  const u32 mask = (head & kMaskFollows) != 0 ? u32{in.get<u8>()} << frame.first_page : full;
  const u64 segment = in.get_varint();
  const u64 ordinal = in.get_varint();
  const u64 stored =
      (head & kStoredFollows) != 0 ? in.get_varint() : raw_stored_bytes(frame.page_count);
  if (!in.ok()) return corrupt("table run: cut short");
  if (mask == 0 || (mask & ~full) != 0) return corrupt("table run: mask", mask);
  if (segment >= segments.size()) return corrupt("table run: segment", segment);
  if (ordinal > UINT32_MAX || stored <= format::kSealOverhead || stored >= 1u << 17) {
    return corrupt("table run: place", ordinal);
  }
  frame.offset = ordinal * format::kPieceAlignment;
  frame.stored_bytes = static_cast<u32>(stored);
  return Found{mask, RunKind::data, segments[segment].segment, frame};
}

Result<Found> get_run(Reader& in, std::span<const SegmentUse> segments) {
  const u8 head = in.get<u8>();
  if ((head & ~kHeadBits) != 0) return corrupt("table run: head", head);
  const auto kind = static_cast<RunKind>(head & kKindMask);
  if (kind == RunKind::data) return get_data_run(in, head, segments);
  if (kind > RunKind::hole || (head & (kZstd | kStoredFollows)) != 0) {
    return corrupt("table run: head", head);
  }
  const u32 mask = (head & kMaskFollows) != 0 ? in.get<u32>() : ~u32{0};
  if (!in.ok()) return corrupt("table run: cut short");
  if (mask == 0) return corrupt("table run: mask");
  return Found{mask, kind, {}, {}};
}

}  // namespace

void encode_runs(std::span<const Found> runs, std::span<const u32> segment_index, Writer& out) {
  INVARIANT(runs.size() == segment_index.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const Found& run = runs[i];
    const bool is_data = run.kind == RunKind::data;
    const u32 full = is_data ? frame_mask(run.frame) : ~u32{0};
    INVARIANT(run.mask != 0 && (run.mask & ~full) == 0);
    u8 head = static_cast<u8>(run.kind);
    if (run.mask != full) head |= kMaskFollows;
    if (!is_data) {
      out.put<u8>(head);
      if (run.mask != full) out.put<u32>(run.mask);
      continue;
    }
    const bool is_raw_length = run.frame.stored_bytes == raw_stored_bytes(run.frame.page_count);
    if (run.frame.codec == Codec::zstd) head |= kZstd;
    if (!is_raw_length) head |= kStoredFollows;
    out.put<u8>(head);
    out.put<u8>(static_cast<u8>(run.frame.first_page | (run.frame.page_count - 1) << 5));
    if (run.mask != full) out.put<u8>(static_cast<u8>(run.mask >> run.frame.first_page));
    out.put_varint(segment_index[i]);
    out.put_varint(run.frame.offset / format::kPieceAlignment);
    if (!is_raw_length) out.put_varint(run.frame.stored_bytes);
  }
}

Result<u32> find_in_runs(std::string_view value, std::span<const SegmentUse> segments, u32 need,
                         std::vector<Found>& out) {
  Reader in(bytes_of(value));
  while (!in.at_end() && need != 0) {
    TRY(Found run, get_run(in, segments));
    run.mask &= need;
    if (run.mask == 0) continue;
    need &= ~run.mask;
    out.push_back(run);
  }
  return need;
}

std::string encode_meta_value(const std::optional<std::string>& value) {
  return value ? kPresent + *value : std::string(1, kDeleted);
}

Result<std::optional<std::string>> decode_meta_value(std::string_view value) {
  if (value.size() == 1 && value[0] == kDeleted) return std::optional<std::string>();
  if (value.empty() || value[0] != kPresent) return corrupt("table: meta value");
  return std::optional<std::string>(value.substr(1));
}

}  // namespace zerofs::lsm
