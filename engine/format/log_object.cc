#include "engine/format/log_object.h"

#include <algorithm>

#include "engine/base/wire.h"

namespace zerofs::format {

namespace {

// The plain content of the sealed footer.
struct FooterLayout {
  Le<u64> term;
  Le<u64> seq;
  Le<u64> durable_end;
  Le<u64> journal_position;
  Le<u64> data_bytes;
  Le<u64> layer_offset;
  Le<u32> layer_stored_bytes;
  Le<u32> layer_plain_bytes;
  Le<u8> layer_codec;
  std::byte reserved[7];
};
static_assert(sizeof(FooterLayout) == 64 && alignof(FooterLayout) == 1);

// Last in the object, in the clear: it only says how to try; authentication decides.
struct Trailer {
  char magic[8];
  Le<u64> reserved;
};
static_assert(sizeof(Trailer) == 16);

constexpr char kLogMagic[8] = {'z', 'f', 's', '-', 'l', 'o', 'g', '1'};
constexpr char kFenceMagic[8] = {'z', 'f', 's', '-', 'f', 'n', 'c', '1'};
constexpr u8 kFenceKind = 16;

constexpr u64 kFooterSealedBytes = sizeof(FooterLayout) + kSealOverhead;  // 84
constexpr u64 kFooterRoomBytes = (kFooterSealedBytes + 15) / 16 * 16;     // 96
constexpr u64 kEndBytes = kFooterRoomBytes + sizeof(Trailer);             // footer and trailer

struct FenceLayout {
  Le<u64> term;
  Le<u64> seq;
  Le<u64> fenced_by;
};
static_assert(sizeof(FenceLayout) == 24);

void append_trailer(Buffer& object, const char (&magic)[8]) {
  Trailer trailer{};
  std::memcpy(trailer.magic, magic, sizeof magic);
  object.append(struct_bytes(trailer));
}

}  // namespace

void finish_log_object(ObjectCipher& cipher, const lsm::Layer& layer, LogFooter footer,
                       Compression compression, Buffer& object) {
  const std::vector<std::byte> plain = encode_layer(layer);
  footer.layer = seal_blob(cipher, PieceKind::layer, plain, compression, object);

  FooterLayout layout{};
  layout.term = footer.term.value;
  layout.seq = footer.seq.value;
  layout.durable_end = footer.durable_end;
  layout.journal_position = footer.journal_position;
  layout.data_bytes = footer.data_bytes;
  layout.layer_offset = footer.layer.offset;
  layout.layer_stored_bytes = footer.layer.stored_bytes;
  layout.layer_plain_bytes = footer.layer.plain_bytes;
  layout.layer_codec = static_cast<u8>(footer.layer.codec);

  const u64 begin = object.size();
  const u64 offset = align_piece(begin);
  object.resize(offset + kFooterRoomBytes);
  std::memset(object.data() + begin, 0, object.size() - begin);
  cipher.seal(PieceKind::log_footer, offset, Codec::raw, sizeof layout, struct_bytes(layout),
              object.mutable_bytes().subspan(offset, kFooterSealedBytes));
  append_trailer(object, kLogMagic);
}

Result<LogSlot> classify_log_slot(Bytes tail) {
  if (tail.size() < sizeof(Trailer)) return corrupt("log slot: too short");
  const auto trailer = struct_from<Trailer>(tail.last(sizeof(Trailer)));
  if (std::memcmp(trailer.magic, kLogMagic, sizeof kLogMagic) == 0) return LogSlot::log_object;
  if (std::memcmp(trailer.magic, kFenceMagic, sizeof kFenceMagic) == 0) return LogSlot::fence;
  return corrupt("log slot: neither a log object nor a fence");
}

Result<LogFooter> decode_log_footer(ObjectCipher& cipher, u64 object_bytes, Bytes tail, Term term,
                                    Seq seq) {
  if (object_bytes < kEndBytes || tail.size() < kEndBytes || object_bytes % 16 != 0) {
    return corrupt("log object: too short");
  }
  FooterLayout layout;
  const Bytes sealed = tail.last(kEndBytes).first(kFooterSealedBytes);
  TRY_VOID(cipher.open(PieceKind::log_footer, object_bytes - kEndBytes, Codec::raw, sizeof layout,
                       sealed, {reinterpret_cast<std::byte*>(&layout), sizeof layout}));
  const LogFooter footer{.term = {layout.term},
                         .seq = {layout.seq},
                         .durable_end = layout.durable_end,
                         .journal_position = layout.journal_position,
                         .data_bytes = layout.data_bytes,
                         .layer = {.offset = layout.layer_offset,
                                   .stored_bytes = layout.layer_stored_bytes,
                                   .plain_bytes = layout.layer_plain_bytes,
                                   .codec = static_cast<Codec>(u8{layout.layer_codec})}};
  if (footer.term != term || footer.seq != seq) return corrupt("log footer: of another slot");
  if (footer.layer.offset > object_bytes - kEndBytes ||
      footer.layer.stored_bytes > object_bytes - kEndBytes - footer.layer.offset) {
    return corrupt("log footer: the layer lies outside");
  }
  return footer;
}

Result<lsm::Layer> decode_log_layer(ObjectCipher& cipher, const LogFooter& footer, Bytes sealed) {
  TRY(const Buffer plain, open_blob(cipher, PieceKind::layer, footer.layer, sealed));
  TRY(lsm::Layer layer, decode_layer(plain));
  const lsm::SegmentId own = lsm::log_segment(footer.term, footer.seq);
  for (const lsm::SegmentId segment : layer.segments) {
    if (segment != own) return corrupt("log layer: it points into another object");
  }
  for (const lsm::Entry& entry : layer.entries) {
    if (entry.run.kind() != lsm::RunKind::data) continue;
    const lsm::FramePointer frame = entry.run.frame();
    if (frame.offset + frame.stored_bytes > footer.layer.offset) {
      return corrupt("log layer: a frame lies outside");
    }
  }
  return layer;
}

Buffer encode_fence(const DatabaseKeys& keys, const Fence& fence, Bytes nonce24) {
  FenceLayout layout{};
  layout.term = fence.term.value;
  layout.seq = fence.seq.value;
  layout.fenced_by = fence.fenced_by.value;
  Buffer object = seal_whole(keys.fences(), kFenceKind, keys.database(),
                             log_name(fence.term, fence.seq), nonce24, struct_bytes(layout));
  append_trailer(object, kFenceMagic);
  return object;
}

Result<Fence> decode_fence(const DatabaseKeys& keys, Bytes object, Term term, Seq seq) {
  if (object.size() < sizeof(Trailer)) return corrupt("fence: too short");
  TRY(const Buffer plain,
      open_whole(keys.fences(), kFenceKind, keys.database(), log_name(term, seq),
                 object.first(object.size() - sizeof(Trailer))));
  if (plain.size() != sizeof(FenceLayout)) return corrupt("fence: impossible length");
  const auto layout = struct_from<FenceLayout>(plain);
  const Fence fence{{layout.term}, {layout.seq}, {layout.fenced_by}};
  if (fence.term != term || fence.seq != seq) return corrupt("fence: of another slot");
  return fence;
}

}  // namespace zerofs::format
