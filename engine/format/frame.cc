#include "engine/format/frame.h"

#include "engine/format/compress.h"

namespace zerofs::format {

namespace {

constexpr int kLevelThatAlwaysTries = 3;  // reclaim: time matters less than space

// Appends zeroes up to where a piece may start.
u64 begin_piece(Buffer& out) {
  const u64 begin = out.size();
  const u64 offset = align_piece(begin);
  out.resize(offset);
  if (offset != begin) std::memset(out.data() + begin, 0, offset - begin);
  return offset;
}

bool contiguous(std::span<const std::byte* const> pages) {
  for (std::size_t i = 1; i < pages.size(); ++i) {
    if (pages[i] != pages[i - 1] + kPageBytes) return false;
  }
  return true;
}

// The pages as one byte string: in place when they lie so, else copied to `scratch`.
Bytes gather(std::span<const std::byte* const> pages, std::byte* scratch) {
  const std::size_t size = pages.size() * kPageBytes;
  if (contiguous(pages)) return {pages[0], size};
  for (std::size_t i = 0; i < pages.size(); ++i) {
    std::memcpy(scratch + i * kPageBytes, pages[i], kPageBytes);
  }
  return {scratch, size};
}

}  // namespace

lsm::FramePointer seal_frame(ObjectCipher& cipher, std::span<const std::byte* const> pages,
                             u8 first_page, Compression compression, Buffer& out) {
  INVARIANT(!pages.empty() && pages.size() <= kPagesPerFrameMax);
  INVARIANT(first_page + pages.size() <= kPagesPerChunk);
  const u32 plain_bytes = static_cast<u32>(pages.size()) * kPageBytes;
  FrameScratch& scratch = frame_scratch();
  std::size_t packed_bytes = 0;
  if (!compression.stored && (compression.level >= kLevelThatAlwaysTries || !looks_random(pages))) {
    packed_bytes = compress(gather(pages, scratch.plain), scratch.packed, compression);
  }
  const Codec codec = packed_bytes != 0 ? Codec::zstd : Codec::raw;

  Bytes parts[kPagesPerFrameMax];
  std::size_t part_count = 1;
  if (codec == Codec::zstd) {
    parts[0] = {scratch.packed, packed_bytes};
  } else {
    part_count = pages.size();
    for (std::size_t i = 0; i < part_count; ++i) parts[i] = {pages[i], kPageBytes};
  }
  const u64 offset = begin_piece(out);
  const std::size_t stored = (packed_bytes != 0 ? packed_bytes : plain_bytes) + kSealOverhead;
  out.resize(offset + stored);
  cipher.seal_parts(PieceKind::frame, offset, codec, plain_bytes, {parts, part_count},
                    out.mutable_bytes().subspan(offset));
  return {.offset = offset,
          .stored_bytes = static_cast<u32>(stored),
          .first_page = first_page,
          .page_count = static_cast<u8>(pages.size()),
          .codec = codec};
}

Result<> open_frame(ObjectCipher& cipher, const lsm::FramePointer& frame, Bytes sealed,
                    MutableBytes plain) {
  INVARIANT(plain.size() == u64{frame.page_count} * kPageBytes && plain.size() <= kFrameBytesMax);
  if (sealed.size() != frame.stored_bytes || sealed.size() < kSealOverhead) {
    return corrupt("frame: impossible length, at offset", frame.offset);
  }
  const u32 plain_bytes = static_cast<u32>(plain.size());
  const std::size_t size = sealed.size() - kSealOverhead;
  if (frame.codec == Codec::raw) {
    if (size != plain.size()) return corrupt("frame: impossible length, at offset", frame.offset);
    return cipher.open(PieceKind::frame, frame.offset, frame.codec, plain_bytes, sealed, plain);
  }
  if (frame.codec != Codec::zstd || size > kFrameBytesMax) {
    return corrupt("frame: unknown codec or impossible length, at offset", frame.offset);
  }
  const MutableBytes packed(frame_scratch().packed, size);
  TRY_VOID(cipher.open(PieceKind::frame, frame.offset, frame.codec, plain_bytes, sealed, packed));
  return decompress(packed, plain);
}

BlobPointer seal_blob(ObjectCipher& cipher, PieceKind kind, Bytes plain, Compression compression,
                      Buffer& out) {
  INVARIANT(plain.size() <= kBlobBytesMax);
  const u64 offset = begin_piece(out);
  // Compressed to where the ciphertext will lie, and encrypted in place.
  out.resize(offset + plain.size() + kSealOverhead);
  const MutableBytes room = out.mutable_bytes().subspan(offset + kSealHeadBytes, plain.size());
  const std::size_t packed_bytes = compress(plain, room, compression);
  const Codec codec = packed_bytes != 0 ? Codec::zstd : Codec::raw;
  const Bytes input = packed_bytes != 0 ? Bytes(room.first(packed_bytes)) : plain;
  out.resize(offset + input.size() + kSealOverhead);
  cipher.seal(kind, offset, codec, static_cast<u32>(plain.size()), input,
              out.mutable_bytes().subspan(offset));
  return {.offset = offset,
          .stored_bytes = static_cast<u32>(input.size() + kSealOverhead),
          .plain_bytes = static_cast<u32>(plain.size()),
          .codec = codec};
}

Result<Buffer> open_blob(ObjectCipher& cipher, PieceKind kind, const BlobPointer& blob,
                         Bytes sealed) {
  if (sealed.size() != blob.stored_bytes || sealed.size() < kSealOverhead ||
      blob.plain_bytes > kBlobBytesMax) {
    return corrupt("blob: impossible length, at offset", blob.offset);
  }
  const std::size_t size = sealed.size() - kSealOverhead;
  const bool fits = blob.codec == Codec::raw ? size == blob.plain_bytes
                                             : blob.codec == Codec::zstd && size < blob.plain_bytes;
  if (!fits) return corrupt("blob: unknown codec or impossible length, at offset", blob.offset);
  Buffer opened(size);
  TRY_VOID(cipher.open(kind, blob.offset, blob.codec, blob.plain_bytes, sealed, opened));
  if (blob.codec == Codec::raw) return opened;
  Buffer plain(blob.plain_bytes);
  TRY_VOID(decompress(opened, plain));
  return plain;
}

}  // namespace zerofs::format
