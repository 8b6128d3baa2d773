#include "engine/format/frame.h"

#include <zstd.h>

namespace zerofs::format {

namespace {

struct Compressor {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ~Compressor() { ZSTD_freeCCtx(context); }
};
struct Decompressor {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  ~Decompressor() { ZSTD_freeDCtx(context); }
};

// A compressed form is kept only when it saves at least 6 %: otherwise decoding costs more than
// the bytes are worth.
constexpr std::size_t worth_at_most(std::size_t plain) { return plain - plain / 16; }

// Compresses into `out` when that is worth it; the size, or 0.
std::size_t compress(Bytes plain, MutableBytes out, Compression compression) {
  if (compression.stored) return 0;
  thread_local Compressor compressor;
  const std::size_t room = std::min(out.size(), worth_at_most(plain.size()));
  const std::size_t size = ZSTD_compressCCtx(compressor.context, out.data(), room, plain.data(),
                                             plain.size(), compression.level);
  return ZSTD_isError(size) ? 0 : size;  // "does not fit" is the usual error: not worth it
}

Result<> decompress(Bytes input, MutableBytes plain) {
  thread_local Decompressor decompressor;
  const std::size_t size = ZSTD_decompressDCtx(decompressor.context, plain.data(), plain.size(),
                                               input.data(), input.size());
  if (ZSTD_isError(size) || size != plain.size()) {
    return corrupt("compressed bytes do not have their authenticated length");
  }
  return {};
}

// Room for a sealed piece at the next aligned offset, the gap filled with zeroes.
u64 begin_piece(Buffer& out) {
  const u64 begin = out.size();
  const u64 offset = align_piece(begin);
  out.resize(offset);
  std::memset(out.data() + begin, 0, offset - begin);
  return offset;
}

}  // namespace

lsm::FramePointer seal_frame(ObjectCipher& cipher, std::span<const std::byte* const> pages,
                             u8 first_page, Compression compression, Buffer& out) {
  INVARIANT(!pages.empty() && pages.size() <= kPagesPerFrameMax);
  const u32 plain_bytes = static_cast<u32>(pages.size()) * kPageBytes;
  alignas(64) thread_local std::byte gathered[kFrameBytesMax];
  alignas(64) thread_local std::byte compressed[kFrameBytesMax];
  bool contiguous = true;
  for (std::size_t i = 1; i < pages.size(); ++i) {
    contiguous = contiguous && pages[i] == pages[i - 1] + kPageBytes;
  }
  Bytes plain(pages[0], plain_bytes);
  if (!contiguous) {
    for (std::size_t i = 0; i < pages.size(); ++i) {
      std::memcpy(gathered + i * kPageBytes, pages[i], kPageBytes);
    }
    plain = {gathered, plain_bytes};
  }
  const std::size_t size = compress(plain, compressed, compression);
  const Codec codec = size != 0 ? Codec::zstd : Codec::raw;
  const Bytes input = size != 0 ? Bytes(compressed, size) : plain;

  const u64 offset = begin_piece(out);
  out.resize(offset + input.size() + kSealOverhead);
  cipher.seal(PieceKind::frame, offset, codec, plain_bytes, input,
              out.mutable_bytes().subspan(offset));
  return {.offset = offset,
          .stored_bytes = static_cast<u32>(input.size() + kSealOverhead),
          .first_page = first_page,
          .page_count = static_cast<u8>(pages.size()),
          .codec = codec};
}

Result<> open_frame(ObjectCipher& cipher, const lsm::FramePointer& frame, Bytes sealed,
                    MutableBytes plain) {
  INVARIANT(plain.size() == u64{frame.page_count} * kPageBytes);
  if (sealed.size() != frame.stored_bytes || sealed.size() < kSealOverhead) {
    return corrupt("frame: impossible length", frame.offset);
  }
  const u32 plain_bytes = static_cast<u32>(plain.size());
  const std::size_t size = sealed.size() - kSealOverhead;
  if (frame.codec == Codec::raw) {
    if (size != plain.size()) return corrupt("frame: impossible length", frame.offset);
    return cipher.open(PieceKind::frame, frame.offset, frame.codec, plain_bytes, sealed, plain);
  }
  if (frame.codec != Codec::zstd || size > kFrameBytesMax) {
    return corrupt("frame: unknown codec or impossible length", frame.offset);
  }
  alignas(64) thread_local std::byte compressed[kFrameBytesMax];
  const MutableBytes opened(compressed, size);
  TRY_VOID(cipher.open(PieceKind::frame, frame.offset, frame.codec, plain_bytes, sealed, opened));
  return decompress(opened, plain);
}

BlobPointer seal_blob(ObjectCipher& cipher, PieceKind kind, Bytes plain, Compression compression,
                      Buffer& out) {
  INVARIANT(plain.size() <= kBlobBytesMax);
  Buffer compressed(plain.size());
  const std::size_t size = plain.empty() ? 0 : compress(plain, compressed, compression);
  const Codec codec = size != 0 ? Codec::zstd : Codec::raw;
  const Bytes input = size != 0 ? compressed.bytes().first(size) : plain;

  const u64 offset = begin_piece(out);
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
    return corrupt("blob: impossible length", blob.offset);
  }
  Buffer opened(sealed.size() - kSealOverhead);
  TRY_VOID(cipher.open(kind, blob.offset, blob.codec, blob.plain_bytes, sealed, opened));
  if (blob.codec == Codec::raw) {
    if (opened.size() != blob.plain_bytes) return corrupt("blob: impossible length", blob.offset);
    return opened;
  }
  if (blob.codec != Codec::zstd) return corrupt("blob: unknown codec", blob.offset);
  Buffer plain(blob.plain_bytes);
  TRY_VOID(decompress(opened, plain));
  return plain;
}

}  // namespace zerofs::format
