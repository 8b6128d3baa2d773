#include "engine/cache/page_slab.h"

#include <sys/mman.h>

namespace zerofs::cache {

Result<std::unique_ptr<PageSlab>> PageSlab::create(u32 page_count) {
  INVARIANT(page_count > 0 && page_count < kNoPage);
  std::unique_ptr<PageSlab> slab(new PageSlab);
  const u64 data_bytes = u64{page_count} * kPageBytes;
  const u64 table_bytes = u64{page_count} * sizeof(u32);
  slab->mapped_bytes_ = data_bytes + 2 * table_bytes;
  void* memory = mmap(nullptr, slab->mapped_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return fail(Code::no_space, "page slab: cannot map --memory");
  // Fewer faults and TLB misses. Pages are used from the bottom up, so memory that is never needed
  // is never touched either. The answer does not matter: it is a hint.
  static_cast<void>(madvise(memory, data_bytes, MADV_HUGEPAGE));
  // Plaintext of users' data does not belong in core files.
  static_cast<void>(madvise(memory, slab->mapped_bytes_, MADV_DONTDUMP));
  slab->base_ = static_cast<std::byte*>(memory);
  slab->references_ = reinterpret_cast<u32*>(slab->base_ + data_bytes);
  slab->next_free_ = slab->references_ + page_count;
  slab->page_count_ = page_count;
  return slab;
}

void PageSlab::populate(std::span<std::byte> memory) {
  // A hint as well: without it the pages are backed at their first use.
  static_cast<void>(madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE));
}

PageSlab::~PageSlab() {
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
}

const std::byte* zero_chunk() {
  alignas(kPageBytes) static const std::byte zeroes[kChunkBytes] = {};
  return zeroes;
}

}  // namespace zerofs::cache
