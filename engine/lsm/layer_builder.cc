// Building a layer from single calls, and the parts of that which fold shares.
#include "engine/lsm/layer_parts.h"

namespace zerofs::lsm {

void settle_chunk(std::vector<Entry>& entries, std::size_t begin) {
  std::size_t end = begin;
  for (std::size_t i = begin; i < entries.size(); ++i) {
    const Entry entry = entries[i];
    std::size_t same = begin;
    while (same < end && !entries[same].run.same_source(entry.run)) ++same;
    if (same == end) {
      entries[end++] = entry;
    } else {
      entries[same].run.mask |= entry.run.mask;
    }
  }
  entries.resize(end);
  std::sort(entries.begin() + static_cast<std::ptrdiff_t>(begin), entries.end(),
            [](const Entry& a, const Entry& b) { return run_before(a.run, b.run); });
}

namespace {

// Drops the elements that nothing refers to; element i goes to place [i] of the result.
template <class T>
std::vector<u32> compact(std::vector<T>& table, const std::vector<bool>& used) {
  std::vector<u32> to(table.size());
  u32 next = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    to[i] = next;
    if (used[i]) table[next++] = table[i];
  }
  table.resize(next);
  return to;
}

template <class T>
void shrink_if_wasteful(std::vector<T>& vector) {
  if (vector.capacity() - vector.size() > vector.size() / 8) vector.shrink_to_fit();
}

}  // namespace

void drop_unused(Layer& layer) {
  std::vector<bool> objects(layer.objects.size());
  std::vector<bool> segments(layer.segments.size());
  for (const Entry& entry : layer.entries) {
    objects[object_index_of(entry.key)] = true;
    if (entry.run.kind() == RunKind::data) segments[entry.run.segment] = true;
  }
  shrink_if_wasteful(layer.entries);
  const auto all = [](const std::vector<bool>& used) {
    return std::ranges::all_of(used, std::identity());
  };
  if (all(objects) && all(segments)) return;
  const std::vector<u32> object_to = compact(layer.objects, objects);
  const std::vector<u32> segment_to = compact(layer.segments, segments);
  for (Entry& entry : layer.entries) {
    entry.key = key_of(object_to[object_index_of(entry.key)], chunk_of(entry.key));
    if (entry.run.kind() == RunKind::data) entry.run.segment = segment_to[entry.run.segment];
  }
}

void join_ranges(std::vector<ErasedRange>& ranges) {
  std::size_t end = 0;
  for (const ErasedRange& range : ranges) {
    ErasedRange* const before = end != 0 ? &ranges[end - 1] : nullptr;
    if (before != nullptr && before->object == range.object && range.first <= before->last + 1) {
      before->last = std::max(before->last, range.last);
      before->whole_object |= range.whole_object;
    } else {
      ranges[end++] = range;
    }
  }
  ranges.resize(end);
}

void LayerBuilder::add_data(ObjectId object, u64 chunk, u32 mask, SegmentId segment,
                            const FramePointer& frame) {
  INVARIANT(mask != 0 && chunk <= kChunkIndexMax);
  INVARIANT((mask & ~frame_mask(frame)) == 0);
  items_.push_back({object, chunk, next_order_++, segment, Run::data(mask, 0, frame)});
}

void LayerBuilder::add_empty(ObjectId object, u64 chunk, u32 mask, RunKind kind) {
  INVARIANT(mask != 0 && chunk <= kChunkIndexMax && kind != RunKind::data);
  items_.push_back({object, chunk, next_order_++, {}, Run::empty(mask, kind)});
}

void LayerBuilder::erase(const ErasedRange& range) {
  INVARIANT(range.first <= range.last && range.last <= kChunkIndexMax);
  std::erase_if(items_, [&](const Item& item) {
    return item.object == range.object && item.chunk >= range.first && item.chunk <= range.last;
  });
  erased_.push_back(range);
}

void LayerBuilder::put_meta(std::string key, std::optional<std::string> value) {
  auto at = meta_.end();
  if (!meta_.empty() && key <= meta_.back().key) {
    at = std::ranges::lower_bound(meta_, key, {}, &MetaEntry::key);
  }
  if (at != meta_.end() && at->key == key) {
    at->value = std::move(value);
  } else {
    meta_.insert(at, {std::move(key), std::move(value)});
  }
}

// Fills the segment table and each run's index into it.
void LayerBuilder::number_segments(Layer& out) {
  for (const Item& item : items_) {
    if (item.run.kind() != RunKind::data) continue;
    if (out.segments.empty() || out.segments.back() != item.segment) {
      out.segments.push_back(item.segment);
    }
  }
  std::ranges::sort(out.segments);
  const auto repeated = std::ranges::unique(out.segments);
  out.segments.erase(repeated.begin(), repeated.end());
  if (out.segments.size() <= 1) return;  // every index is 0
  for (Item& item : items_) {
    if (item.run.kind() != RunKind::data) continue;
    const auto at = std::ranges::lower_bound(out.segments, item.segment);
    item.run.segment = static_cast<u32>(at - out.segments.begin());
  }
}

// `items_` is sorted by chunk, and within a chunk as they were added.
void LayerBuilder::add_entries(Layer& out) {
  out.entries.reserve(items_.size());
  bool dropped = false;
  for (std::size_t i = 0; i < items_.size();) {
    const ObjectId object = items_[i].object;
    const u64 chunk = items_[i].chunk;
    if (out.objects.empty() || out.objects.back() != object) out.objects.push_back(object);
    const u64 key = key_of(out.objects.size() - 1, chunk);
    std::size_t end = i;
    while (end < items_.size() && items_[end].object == object && items_[end].chunk == chunk) ++end;
    const std::size_t begin = out.entries.size();
    u32 covered = 0;
    for (std::size_t at = end; at-- > i;) {  // the newest source of a page counts
      Run run = items_[at].run;
      run.mask &= ~covered;
      covered |= run.mask;
      if (run.mask == 0) {
        dropped = true;
      } else {
        out.entries.push_back({key, run});
      }
    }
    if (out.entries.size() - begin > 1) settle_chunk(out.entries, begin);
    i = end;
  }
  INVARIANT(out.objects.size() <= kObjectsPerLayerMax);
  if (dropped) drop_unused(out);
}

Layer LayerBuilder::build() && {
  Layer out;
  const auto before = [](const Item& a, const Item& b) {
    return std::tie(a.object, a.chunk, a.order) < std::tie(b.object, b.chunk, b.order);
  };
  if (!std::ranges::is_sorted(items_, before)) std::ranges::sort(items_, before);
  number_segments(out);
  add_entries(out);
  if (!std::ranges::is_sorted(erased_, range_before)) std::ranges::sort(erased_, range_before);
  join_ranges(erased_);
  out.erased = std::move(erased_);
  out.meta = std::move(meta_);
  return out;
}

}  // namespace zerofs::lsm
