// The pages of one database: a fixed number of 4 KiB buffers, counted references, no system calls
// after start (the kernel backs a page at its first use).
//
// A page with one reference belongs to its holder and may be written in place; a page that a
// reply, a seal or a job also refers to is never written again.
#pragma once

#include "engine/base/result.h"

namespace zerofs::cache {

using PageIndex = u32;
// Not pages: what the cache knows to read as zeroes, allocated or not.
constexpr PageIndex kHolePage = 0xffff'ffff;
constexpr PageIndex kZeroPage = 0xffff'fffe;
constexpr PageIndex kNoPage = 0xffff'fffd;
inline bool is_memory(PageIndex page) { return page < kNoPage; }

class PageSlab {
 public:
  static Result<std::unique_ptr<PageSlab>> create(u32 page_count);
  ~PageSlab();
  PageSlab(const PageSlab&) = delete;

  // A page with one reference, or kNoPage when all are taken. Its contents are undefined.
  PageIndex allocate() {
    if (free_head_ == kNoPage) return allocate_fresh();
    const PageIndex page = free_head_;
    free_head_ = next_free_[page];
    --free_listed_;
    references_[page] = 1;
    return page;
  }
  void reference(PageIndex page) { ++references_[page]; }
  // Frees the page when this was the last reference.
  void release(PageIndex page) {
    INVARIANT(references_[page] != 0);
    if (--references_[page] != 0) return;
    next_free_[page] = free_head_;
    free_head_ = page;
    ++free_listed_;
  }
  void prefetch(PageIndex page) const { __builtin_prefetch(&references_[page]); }
  bool is_shared(PageIndex page) const { return references_[page] > 1; }

  std::byte* data(PageIndex page) { return base_ + u64{page} * kPageBytes; }
  const std::byte* data(PageIndex page) const { return base_ + u64{page} * kPageBytes; }

  // Faults of fresh memory would cost the allocating thread more than the write that they are for.
  // When few populated pages are left, `next_to_populate` names some more; `populate` (any thread)
  // backs them.
  static constexpr u32 kPopulateStep = 8192;
  bool wants_population() const {
    return populated_ < page_count_ && fresh_ + kPopulateStep > populated_;
  }
  std::span<std::byte> next_to_populate() {
    const u32 count = page_count_ - populated_ < kPopulateStep ? page_count_ - populated_ : kPopulateStep;
    const std::span<std::byte> out(data(populated_), u64{count} * kPageBytes);
    populated_ += count;
    return out;
  }
  static void populate(std::span<std::byte> memory);

  u32 page_count() const { return page_count_; }
  u32 used() const { return fresh_ - free_listed_; }
  u32 available() const { return page_count_ - used(); }

 private:
  PageSlab() = default;
  PageIndex allocate_fresh() {
    if (fresh_ == page_count_) return kNoPage;
    references_[fresh_] = 1;
    return fresh_++;
  }

  std::byte* base_ = nullptr;
  u32* references_ = nullptr;  // one mapping holds these two and the pages
  u32* next_free_ = nullptr;
  u64 mapped_bytes_ = 0;
  u32 page_count_ = 0;
  u32 fresh_ = 0;  // pages below were used at least once
  u32 populated_ = 0;
  u32 free_listed_ = 0;
  PageIndex free_head_ = kNoPage;
};

// Reads as zeroes for one chunk; replies refer to it.
const std::byte* zero_chunk();

}  // namespace zerofs::cache
