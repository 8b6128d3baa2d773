#include "engine/format/compress.h"

#include <zstd.h>

#include <algorithm>

namespace zerofs::format {

namespace {

struct FreeZstd {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

constexpr std::size_t kSampleGroupBytes = 32;

ZSTD_CCtx* compressor() {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeZstd> context(ZSTD_createCCtx());
  INVARIANT(context != nullptr);
  return context.get();
}

}  // namespace

std::size_t compress(Bytes plain, MutableBytes out, Compression compression) {
  if (compression.stored || plain.empty()) return 0;
  const std::size_t room = std::min(out.size(), worth_at_most(plain.size()));
  const std::size_t size = ZSTD_compressCCtx(compressor(), out.data(), room, plain.data(),
                                             plain.size(), compression.level);
  return ZSTD_isError(size) ? 0 : size;  // "does not fit" is the usual error: not worth it
}

std::size_t compress_bound(std::size_t plain_bytes) { return ZSTD_compressBound(plain_bytes); }

std::size_t compress_always(Bytes plain, MutableBytes out) {
  const std::size_t size = ZSTD_compressCCtx(compressor(), out.data(), out.size(), plain.data(),
                                             plain.size(), Compression{}.level);
  INVARIANT(!ZSTD_isError(size));  // it fits, and memory was there before
  return size;
}

Result<> decompress(Bytes packed, MutableBytes plain) {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeZstd> context(ZSTD_createDCtx());
  INVARIANT(context != nullptr);
  const std::size_t size = ZSTD_decompressDCtx(context.get(), plain.data(), plain.size(),
                                               packed.data(), packed.size());
  if (ZSTD_isError(size) || size != plain.size()) {
    return corrupt("compressed bytes do not have their authenticated length");
  }
  return {};
}

bool looks_random(std::span<const std::byte* const> pages) {
  // Groups of neighbours, because a plain stride would see one column of an array of integers.
  // Each lies elsewhere in its share of the page, so as not to meet only headers, or one kind of
  // sector.
  const std::size_t groups = pages.size() == 1 ? 16 : pages.size() == 2 ? 8 : 4;
  const std::size_t share = kPageBytes / groups;
  u16 counts[256] = {};
  for (const std::byte* page : pages) {
    for (std::size_t group = 0; group < groups; ++group) {
      const std::byte* at = page + group * share + group * 616 % (share - kSampleGroupBytes);
      for (std::size_t i = 0; i < kSampleGroupBytes; ++i) ++counts[static_cast<u8>(at[i])];
    }
  }
  u32 squares = 0;
  for (const u16 count : counts) squares += u32{count} * count;
  // Of n even bytes, n(n-1)/256 ordered pairs are equal. Above 1.15 times that (3.4 deviations for
  // n = 512), the order-0 entropy may be below what storing costs.
  const u32 n = static_cast<u32>(pages.size() * groups * kSampleGroupBytes);
  return (squares - n) * 256 < n * (n - 1) / 20 * 23;
}

FrameScratch& frame_scratch() {
  thread_local const std::unique_ptr<FrameScratch> scratch(new FrameScratch);
  return *scratch;
}

}  // namespace zerofs::format
