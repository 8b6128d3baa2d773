// zstd as the formats use it. One compressor and one decompressor per thread, kept for its life, and
// no allocation per frame. Internal to engine/format.
#pragma once

#include "engine/format/frame.h"

namespace zerofs::format {

// A compressed form is kept only when it saves at least 1/16: else decoding costs more than the
// bytes are worth.
constexpr std::size_t worth_at_most(std::size_t plain_bytes) {
  return plain_bytes - plain_bytes / 16;
}

// Compresses `plain` into the start of `out`. The size, at most worth_at_most(plain.size()) and
// out.size(); 0 when it is not worth it or `compression` says stored.
std::size_t compress(Bytes plain, MutableBytes out, Compression compression);

// The same for what is always stored compressed; `out` has compress_bound(plain.size()) bytes.
std::size_t compress_bound(std::size_t plain_bytes);
std::size_t compress_always(Bytes plain, MutableBytes out);

// Errors: corrupt unless `packed` decompresses to exactly plain.size() bytes.
Result<> decompress(Bytes packed, MutableBytes plain);

// Whether the counts of a sample's bytes are as even as chance makes them, so that no entropy coder
// could save 1/16. Misses what only repeats (random bytes, twice): rare, and a try costs twice what
// sealing costs.
bool looks_random(std::span<const std::byte* const> pages);

// Two areas per thread for whoever codes one frame at a time.
struct FrameScratch {
  alignas(64) std::byte plain[kFrameBytesMax];
  alignas(64) std::byte packed[kFrameBytesMax];
};
FrameScratch& frame_scratch();

}  // namespace zerofs::format
