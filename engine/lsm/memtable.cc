#include "engine/lsm/memtable.h"

#include <algorithm>
#include <numeric>

namespace zerofs::lsm {

namespace {
// Freeing more than this at once would hold up the reactor.
constexpr u64 kFreeBytesInline = 256 * kKiB;
}  // namespace

void Memtable::push(LayerRef layer) {
  INVARIANT(layer != nullptr && layers_.size() == bytes_.size());
  const u64 bytes = layer->memory_bytes();
  memory_bytes_ += bytes;
  layers_.insert(layers_.begin(), std::move(layer));
  bytes_.insert(bytes_.begin(), bytes);
  if (!folding_ && !gate_.closed()) {
    folding_ = true;
    gate_.spawn(fold_neighbours());
  }
}

u32 Memtable::find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) const {
  for (const LayerRef& layer : layers_) {
    if (need == 0) break;
    need = find_in_layer(*layer, object, chunk, need, out);
  }
  return need;
}

const MetaEntry* Memtable::find_meta(std::string_view key) const {
  for (const LayerRef& layer : layers_) {
    if (const MetaEntry* entry = lsm::find_meta(*layer, key)) return entry;
  }
  return nullptr;
}

// The smallest pair first: a backlog of n equal layers then costs n log n, not n².
std::optional<std::size_t> Memtable::next_fold() const {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i + 1 < layers_.size() - frozen_; ++i) {
    if (2 * bytes_[i] < bytes_[i + 1]) continue;
    if (!best || bytes_[i] + bytes_[i + 1] < bytes_[*best] + bytes_[*best + 1]) best = i;
  }
  return best;
}

// One fold at a time. Pushes and freezes may happen while a worker folds: the result replaces
// exactly the two layers that it was made of, and only if both are still here and unfrozen.
Task<> Memtable::fold_neighbours() {
  while (!gate_.closed()) {
    const std::optional<std::size_t> newer = next_fold();
    if (!newer) break;

    // The job alone holds them, so that the last reference is dropped by free_on_worker().
    const Layer* const first = layers_[*newer].get();
    auto fold_both = [a = layers_[*newer], b = layers_[*newer + 1]]() -> Sized {
      auto folded = std::make_shared<const Layer>(fold(*a, *b));
      const u64 bytes = folded->memory_bytes();
      return {std::move(folded), bytes};
    };
    Sized folded = co_await offload(executor_, Priority::bulk, std::move(fold_both));

    const auto at = std::ranges::find(layers_, first, &LayerRef::get);
    const std::size_t index = static_cast<std::size_t>(at - layers_.begin());
    if (index + 1 >= layers_.size() - frozen_) continue;  // frozen meanwhile, perhaps flushed
    remove(index, index + 2);
    memory_bytes_ += folded.bytes;
    layers_.insert(layers_.begin() + static_cast<std::ptrdiff_t>(index), std::move(folded.layer));
    bytes_.insert(bytes_.begin() + static_cast<std::ptrdiff_t>(index), folded.bytes);
  }
  folding_ = false;
  co_return {};
}

void Memtable::remove(std::size_t begin, std::size_t end) {
  const auto first = static_cast<std::ptrdiff_t>(begin);
  const auto last = static_cast<std::ptrdiff_t>(end);
  std::vector<LayerRef> removed(layers_.begin() + first, layers_.begin() + last);
  const u64 bytes = std::accumulate(bytes_.begin() + first, bytes_.begin() + last, u64{0});
  layers_.erase(layers_.begin() + first, layers_.begin() + last);
  bytes_.erase(bytes_.begin() + first, bytes_.begin() + last);
  memory_bytes_ -= bytes;
  if (bytes > kFreeBytesInline && !gate_.closed()) {
    gate_.spawn(free_on_worker(std::move(removed)));
  }
}

Task<> Memtable::free_on_worker(std::vector<LayerRef> layers) {
  auto free_them = [layers = std::move(layers)]() mutable { layers.clear(); };
  co_await offload(executor_, Priority::bulk, std::move(free_them));
  co_return {};
}

std::vector<LayerRef> Memtable::freeze() {
  frozen_ = layers_.size();
  return layers_;
}

void Memtable::drop_frozen() {
  const std::size_t begin = layers_.size() - std::exchange(frozen_, 0);
  remove(begin, layers_.size());
}

}  // namespace zerofs::lsm
