#include "engine/lsm/memtable.h"

#include <algorithm>

namespace zerofs::lsm {

void Memtable::push(LayerRef layer) {
  memory_bytes_ += layer->memory_bytes();
  layers_.insert(layers_.begin(), std::move(layer));
  if (!folding_ && !gate_.closed()) {
    folding_ = true;
    gate_.spawn(fold_neighbours());
  }
}

u32 Memtable::find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) const {
  for (const LayerRef& layer : layers_) {
    need = find_in_layer(*layer, object, chunk, need, out);
    if (need == 0) break;
  }
  return need;
}

const MetaEntry* Memtable::find_meta(std::string_view key) const {
  for (const LayerRef& layer : layers_) {
    if (const MetaEntry* entry = lsm::find_meta(*layer, key)) return entry;
  }
  return nullptr;
}

bool Memtable::worth_folding(std::size_t newer) const {
  return 2 * layers_[newer]->memory_bytes() >= layers_[newer + 1]->memory_bytes();
}

// One fold at a time. Pushes and freezes may happen while a worker folds: the result replaces
// exactly the two layers that it was made of, and only if both are still here and unfrozen.
Task<> Memtable::fold_neighbours() {
  for (;;) {
    const std::size_t free = layers_.size() - frozen_;
    std::size_t newer = 0;
    while (newer + 1 < free && !worth_folding(newer)) ++newer;
    if (newer + 1 >= free) break;

    auto fold_two = [a = layers_[newer], b = layers_[newer + 1]]() -> LayerRef {
      return std::make_shared<const Layer>(fold(*a, *b));
    };
    const LayerRef a = layers_[newer];
    const LayerRef b = layers_[newer + 1];
    LayerRef folded = co_await offload(executor_, Priority::bulk, std::move(fold_two));

    const auto at = std::ranges::find(layers_, a);
    const std::size_t index = static_cast<std::size_t>(at - layers_.begin());
    if (at == layers_.end() || index + 1 >= layers_.size() - frozen_ || layers_[index + 1] != b) {
      continue;  // frozen meanwhile
    }
    memory_bytes_ += folded->memory_bytes();
    memory_bytes_ -= a->memory_bytes() + b->memory_bytes();
    layers_[index] = std::move(folded);
    layers_.erase(layers_.begin() + static_cast<std::ptrdiff_t>(index) + 1);
  }
  folding_ = false;
  co_return {};
}

std::vector<LayerRef> Memtable::freeze() {
  frozen_ = layers_.size();
  return layers_;
}

void Memtable::drop_frozen() {
  for (std::size_t i = layers_.size() - frozen_; i < layers_.size(); ++i) {
    memory_bytes_ -= layers_[i]->memory_bytes();
  }
  layers_.resize(layers_.size() - frozen_);
  frozen_ = 0;
}

}  // namespace zerofs::lsm
