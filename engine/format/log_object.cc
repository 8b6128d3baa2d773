#include "engine/format/log_object.h"

#include "engine/base/wire.h"
#include "engine/format/log_plain.h"
#include "engine/format/trailer.h"

namespace zerofs::format {

namespace {

// The plain bytes of the footer piece.
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
  std::byte zero[19];
};
static_assert(sizeof(FooterLayout) == 76 && alignof(FooterLayout) == 1);

constexpr u64 kFooterSealedBytes = sizeof(FooterLayout) + kSealOverhead;
static_assert(kLogTailBytes == kFooterSealedBytes + sizeof(Trailer));
static_assert(kLogTailBytes % kPieceAlignment == 0);  // so the footer's place follows from the size

struct FenceLayout {
  Le<u64> term;
  Le<u64> seq;
  Le<u64> fenced_by;
};
static_assert(sizeof(FenceLayout) == 24 && alignof(FenceLayout) == 1);

}  // namespace

void finish_log_object(ObjectCipher& cipher, const lsm::Layer& layer, LogFooter footer,
                       Compression compression, Buffer& object) {
  INVARIANT(layer.segments.empty() ||
            (layer.segments.size() == 1 &&
             layer.segments.front() == lsm::log_segment(footer.term, footer.seq)));
  INVARIANT(footer.data_bytes <= object.size());
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
  object.resize(offset + kFooterSealedBytes);
  std::memset(object.data() + begin, 0, offset - begin);
  cipher.seal(PieceKind::log_footer, offset, Codec::raw, sizeof layout, struct_bytes(layout),
              object.mutable_bytes().subspan(offset));
  object.append(struct_bytes(trailer_of(kLogMagic)));
}

Result<LogSlot> classify_log_slot(Bytes tail) {
  const Result<> log = check_trailer(tail, kLogMagic);
  if (log) return LogSlot::log_object;
  const Result<> fence = check_trailer(tail, kFenceMagic);
  if (fence) return LogSlot::fence;
  if (log.error().code() == Code::invalid) return std::unexpected(log.error());
  if (fence.error().code() == Code::invalid) return std::unexpected(fence.error());
  return corrupt("log slot: neither a log object nor a fence");
}

Result<LogFooter> decode_log_footer_plain(Bytes plain, u64 footer_offset) {
  if (plain.size() != sizeof(FooterLayout)) return corrupt("log footer: impossible length");
  const auto layout = struct_from<FooterLayout>(plain);
  const LogFooter footer{.term = {layout.term},
                         .seq = {layout.seq},
                         .durable_end = layout.durable_end,
                         .journal_position = layout.journal_position,
                         .data_bytes = layout.data_bytes,
                         .layer = {.offset = layout.layer_offset,
                                   .stored_bytes = layout.layer_stored_bytes,
                                   .plain_bytes = layout.layer_plain_bytes,
                                   .codec = static_cast<Codec>(u8{layout.layer_codec})}};
  const BlobPointer& layer = footer.layer;
  // The layer fills the room between the frames and the footer, but for alignment.
  const bool fits = layer.offset % kPieceAlignment == 0 && layer.offset < footer_offset &&
                    align_piece(layer.offset + layer.stored_bytes) == footer_offset;
  if (!fits) return corrupt("log footer: the layer lies elsewhere", layer.offset);
  if (footer.data_bytes > layer.offset) return corrupt("log footer: more data than room");
  if (layer.codec > Codec::zstd || layer.plain_bytes > kBlobBytesMax) {
    return corrupt("log footer: impossible layer");
  }
  return footer;
}

Result<LogFooter> decode_log_footer(ObjectCipher& cipher, u64 object_bytes, Bytes tail, Term term,
                                    Seq seq) {
  if (object_bytes < kLogTailBytes || object_bytes < tail.size() || tail.size() < kLogTailBytes ||
      object_bytes % kPieceAlignment != 0) {
    return corrupt("log object: impossible length", object_bytes);
  }
  TRY_VOID(check_trailer(tail, kLogMagic));
  const u64 offset = object_bytes - kLogTailBytes;
  FooterLayout layout;
  TRY_VOID(cipher.open(PieceKind::log_footer, offset, Codec::raw, sizeof layout,
                       tail.last(kLogTailBytes).first(kFooterSealedBytes),
                       {reinterpret_cast<std::byte*>(&layout), sizeof layout}));
  TRY(const LogFooter footer, decode_log_footer_plain(struct_bytes(layout), offset));
  if (footer.term != term || footer.seq != seq) return corrupt("log footer: of another slot");
  return footer;
}

Result<lsm::Layer> decode_log_layer(ObjectCipher& cipher, const LogFooter& footer, Bytes sealed) {
  TRY(const Buffer plain, open_blob(cipher, PieceKind::layer, footer.layer, sealed));
  TRY(lsm::Layer layer, decode_layer(plain));
  TRY_VOID(check_log_layer(layer, footer));
  return layer;
}

Result<> check_log_layer(const lsm::Layer& layer, const LogFooter& footer) {
  const lsm::SegmentId own = lsm::log_segment(footer.term, footer.seq);
  for (const lsm::SegmentId segment : layer.segments) {
    if (segment != own) return corrupt("log layer: a run points into another object", segment.value);
  }
  for (const lsm::Entry& entry : layer.entries) {
    if (entry.run.kind() != lsm::RunKind::data) continue;
    const lsm::FramePointer frame = entry.run.frame();
    if (frame.stored_bytes <= kSealOverhead ||
        frame.offset + frame.stored_bytes > footer.layer.offset) {
      return corrupt("log layer: a run points outside the frames", frame.offset);
    }
  }
  return {};
}

// ---- fences

Buffer encode_fence(const DatabaseKeys& keys, const Fence& fence, Bytes nonce24) {
  const FenceLayout layout{
      .term = fence.term.value, .seq = fence.seq.value, .fenced_by = fence.fenced_by.value};
  Buffer object = seal_whole(keys.fences(), kFenceKind, keys.database(),
                             log_name(fence.term, fence.seq), nonce24, struct_bytes(layout));
  object.append(struct_bytes(trailer_of(kFenceMagic)));
  return object;
}

Result<Fence> decode_fence(const DatabaseKeys& keys, Bytes object, Term term, Seq seq) {
  TRY_VOID(check_trailer(object, kFenceMagic));
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
