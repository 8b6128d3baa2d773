// Frames and blobs: compression in front of ObjectCipher.
#pragma once

#include "engine/format/cipher.h"

namespace zerofs::format {

// zstd levels as the design uses them; `stored` skips compression.
struct Compression {
  bool stored = false;
  int level = 1;
};

// One compressor/decompressor state per thread (thread_local inside).

// Compresses (keeps it only when it saves at least 6 %, else raw) and seals one frame of
// consecutive pages, given as page pointers, at offset align_piece(out.size()), padding with zero
// bytes up to there; appends to `out`. `plain` pages are 4 KiB each, 1..8 of them.
lsm::FramePointer seal_frame(ObjectCipher& cipher, std::span<const std::byte* const> pages,
                             u8 first_page, Compression compression, Buffer& out);

// Fills `plain` (page_count * 4 KiB) from the sealed bytes. Errors: corrupt.
Result<> open_frame(ObjectCipher& cipher, const lsm::FramePointer& frame, Bytes sealed,
                    MutableBytes plain);

// A blob is any byte string up to 64 MiB (layers, index blocks): where it lies and how it is coded.
struct BlobPointer {
  u64 offset = 0;
  u32 stored_bytes = 0;
  u32 plain_bytes = 0;
  Codec codec = Codec::raw;
  friend bool operator==(const BlobPointer&, const BlobPointer&) = default;
};
constexpr u32 kBlobBytesMax = 256u << 20;
BlobPointer seal_blob(ObjectCipher& cipher, PieceKind kind, Bytes plain, Compression compression,
                      Buffer& out);
Result<Buffer> open_blob(ObjectCipher& cipher, PieceKind kind, const BlobPointer& blob,
                         Bytes sealed);

}  // namespace zerofs::format
