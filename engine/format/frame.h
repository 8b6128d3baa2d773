// Frames and blobs: compression in front of ObjectCipher.
#pragma once

#include "engine/format/cipher.h"

namespace zerofs::format {

// zstd levels as the design uses them; `stored` skips compression.
struct Compression {
  bool stored = false;
  int level = 1;
};

// Any thread: compressor and decompressor states are per thread, and a frame allocates nothing
// (but `out` may grow).

// Compresses (keeps it only when it saves at least 1/16, else raw; bytes that look random are not
// even tried below level 3) and seals one frame of consecutive pages, given as pointers to 4 KiB
// each, 1..8 of them, at offset align_piece(out.size()), padding with zero bytes up to there;
// appends to `out`.
lsm::FramePointer seal_frame(ObjectCipher& cipher, std::span<const std::byte* const> pages,
                             u8 first_page, Compression compression, Buffer& out);

// Fills `plain` (page_count * 4 KiB) from the sealed bytes. Errors: corrupt; `plain` then holds
// nothing that came from the bytes.
Result<> open_frame(ObjectCipher& cipher, const lsm::FramePointer& frame, Bytes sealed,
                    MutableBytes plain);

// A blob is any byte string up to 256 MiB (layers, index blocks): where it lies and how it is coded.
struct BlobPointer {
  u64 offset = 0;
  u32 stored_bytes = 0;
  u32 plain_bytes = 0;
  Codec codec = Codec::raw;
  friend bool operator==(const BlobPointer&, const BlobPointer&) = default;
};
constexpr u32 kBlobBytesMax = 256 * kMiB;
BlobPointer seal_blob(ObjectCipher& cipher, PieceKind kind, Bytes plain, Compression compression,
                      Buffer& out);
Result<Buffer> open_blob(ObjectCipher& cipher, PieceKind kind, const BlobPointer& blob,
                         Bytes sealed);

}  // namespace zerofs::format
