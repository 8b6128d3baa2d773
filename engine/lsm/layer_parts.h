// Parts of the layer algebra that fold and builder share. Internal to engine/lsm.
#pragma once

#include <algorithm>
#include <bit>
#include <tuple>

#include "engine/lsm/layer.h"

namespace zerofs::lsm {

// ---- keys of entries

constexpr u32 kChunkBits = 40;
inline u64 key_of(u64 object_index, u64 chunk) {
  return object_index << kChunkBits | chunk;
}
inline u64 object_index_of(u64 key) {
  return key >> kChunkBits;
}
inline u64 chunk_of(u64 key) {
  return key & kChunkIndexMax;
}

// ---- runs

inline u32 frame_mask(const FramePointer& frame) {
  return ((u32{1} << frame.page_count) - 1) << frame.first_page;
}
// By lowest page. A strict order, because the masks of one chunk are disjoint.
inline bool run_before(const Run& a, const Run& b) {
  return std::countr_zero(a.mask) < std::countr_zero(b.mask);
}

// Gives entries[begin, end), all of one chunk and with disjoint masks, their final form: one run
// for each source, by lowest page.
void settle_chunk(std::vector<Entry>& entries, std::size_t begin);

// ---- tables

// Makes the object and segment tables hold exactly what the entries use, and gives back memory that
// is not worth keeping.
void drop_unused(Layer& layer);

// ---- erased ranges

inline bool range_before(const ErasedRange& a, const ErasedRange& b) {
  return std::tie(a.object, a.first) < std::tie(b.object, b.first);
}
// Walks ranges alongside keys that only grow.
class ErasedCursor {
 public:
  explicit ErasedCursor(const std::vector<ErasedRange>& erased) : rest_(erased) {}
  bool covers(ObjectId object, u64 chunk) {
    const auto passed = [&](const ErasedRange& range) {
      return std::tie(range.object, range.last) < std::tie(object, chunk);
    };
    while (!rest_.empty() && passed(rest_.front())) rest_ = rest_.subspan(1);
    return !rest_.empty() && rest_.front().object == object && rest_.front().first <= chunk;
  }

 private:
  std::span<const ErasedRange> rest_;
};

// Joins ranges that overlap or touch; they are sorted.
void join_ranges(std::vector<ErasedRange>& ranges);

// What a string takes beyond its own size.
inline u64 heap_bytes(const std::string& text) {
  return text.capacity() > std::string().capacity() ? text.capacity() + 1 : 0;
}

}  // namespace zerofs::lsm
