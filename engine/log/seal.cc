#include "engine/log/seal.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "engine/base/mutant.h"

namespace zerofs::log {

Sealer::Sealer(SealInput input, SealedBatch& batch)
    : input_(input),
      batch_(batch),
      cipher_(input.keys, input.salt, format::log_name(input.term, Seq{batch.seq}), input.random),
      segment_(lsm::log_segment(input.term, Seq{batch.seq})) {}

bool Sealer::step() {
  if (!started_) {
    started_ = true;
    order_.resize(batch_.items.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::ranges::sort(order_, {}, [&](u32 index) {
      const SealedBatch::Item& item = batch_.items[index];
      return std::pair(item.object, item.chunk);
    });
    batch_.object.reserve(batch_.pages.size() * (kPageBytes + 32) + 64 * kKiB);
    // A layer first erases, then overlays; everything in `items` is newer than the erases here.
    if (!MUTANT(erases_after_entries)) erase();
  }
  const u64 begin = batch_.object.size();
  u64 plain_bytes = 0;
  while (next_item_ < order_.size()) {
    if (plain_bytes >= kStepBytes || batch_.object.size() - begin >= kStepBytes) return false;
    const SealedBatch::Item& item = batch_.items[order_[next_item_++]];
    add_item(item);
    plain_bytes += u64{kPageBytes} * static_cast<u32>(std::popcount(item.data)) + 256;
  }
  finish();
  return true;
}

void Sealer::erase() {
  batch_.erased.for_each([&](const lsm::ErasedRange& range) { builder_.erase(range); });
}

void Sealer::add_item(const SealedBatch::Item& item) {
  if (item.zero != 0) builder_.add_empty(item.object, item.chunk, item.zero, lsm::RunKind::zero);
  if (item.hole != 0) builder_.add_empty(item.object, item.chunk, item.hole, lsm::RunKind::hole);
  const std::byte* pages[kPagesPerFrameMax];
  u32 next_page = item.first_page;
  for (u32 left = item.data; left != 0;) {
    const u32 first = static_cast<u32>(std::countr_zero(left));
    const u32 run = static_cast<u32>(std::countr_one(left >> first));
    const u32 count = std::min(run, kPagesPerFrameMax);
    for (u32 i = 0; i < count; ++i) pages[i] = input_.slab.data(batch_.pages[next_page++]);
    const lsm::FramePointer frame =
        format::seal_frame(cipher_, {pages, count}, static_cast<u8>(first), input_.compression,
                           batch_.object);
    const u32 mask = ((1u << count) - 1) << first;
    const u32 last = MUTANT(seal_drops_last_page) && count > 1 ? 1u << (first + count - 1) : 0;
    builder_.add_data(item.object, item.chunk, mask & ~last, segment_, frame);
    left &= ~mask;
  }
}

void Sealer::finish() {
  if (MUTANT(erases_after_entries)) erase();
  for (const lsm::MetaEntry& entry : batch_.meta) builder_.put_meta(entry.key, entry.value);
  auto layer = std::make_shared<lsm::Layer>(std::move(builder_).build());
  const format::LogFooter footer{.term = input_.term,
                                 .seq = Seq{batch_.seq},
                                 .durable_end = input_.durable_end,
                                 .data_bytes = batch_.object.size(),
                                 .layer = {}};
  format::finish_log_object(cipher_, *layer, footer, input_.compression, batch_.object);
  batch_.layer = std::move(layer);
  batch_.object_bytes = batch_.object.size();
}

}  // namespace zerofs::log
