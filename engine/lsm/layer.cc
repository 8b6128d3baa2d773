#include "engine/lsm/layer.h"

#include <algorithm>
#include <bit>

namespace zerofs::lsm {

namespace {

constexpr u32 kChunkBits = 40;
constexpr u64 kChunkMask = (u64{1} << kChunkBits) - 1;

u64 key_of(u64 object_index, u64 chunk) { return object_index << kChunkBits | chunk; }
u64 object_index_of(u64 key) { return key >> kChunkBits; }
u64 chunk_of(u64 key) { return key & kChunkMask; }

// Merges two sorted tables; `from_a[i]` and `from_b[i]` tell where their elements went.
template <class T>
std::vector<T> merge_tables(const std::vector<T>& a, const std::vector<T>& b,
                            std::vector<u32>& from_a, std::vector<u32>& from_b) {
  std::vector<T> out;
  out.reserve(a.size() + b.size());
  from_a.resize(a.size());
  from_b.resize(b.size());
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < a.size() || j < b.size()) {
    const u32 at = static_cast<u32>(out.size());
    if (j == b.size() || (i < a.size() && a[i] < b[j])) {
      from_a[i] = at;
      out.push_back(a[i++]);
    } else if (i == a.size() || b[j] < a[i]) {
      from_b[j] = at;
      out.push_back(b[j++]);
    } else {
      from_a[i] = at;
      from_b[j++] = at;
      out.push_back(a[i++]);
    }
  }
  return out;
}

// Drops the elements that nothing refers to and renumbers the rest.
template <class T>
std::vector<u32> compact_table(std::vector<T>& table, const std::vector<bool>& used) {
  std::vector<u32> to(table.size());
  u32 next = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    to[i] = next;
    if (used[i]) table[next++] = table[i];
  }
  table.resize(next);
  return to;
}

// Makes the object and segment tables hold exactly what the entries use.
void drop_unused(Layer& layer) {
  std::vector<bool> objects(layer.objects.size());
  std::vector<bool> segments(layer.segments.size());
  for (const Entry& entry : layer.entries) {
    objects[object_index_of(entry.key)] = true;
    if (entry.run.kind() == RunKind::data) segments[entry.run.segment] = true;
  }
  const bool all = std::ranges::all_of(objects, std::identity()) &&
                   std::ranges::all_of(segments, std::identity());
  if (all) return;
  const std::vector<u32> object_to = compact_table(layer.objects, objects);
  const std::vector<u32> segment_to = compact_table(layer.segments, segments);
  for (Entry& entry : layer.entries) {
    entry.key = key_of(object_to[object_index_of(entry.key)], chunk_of(entry.key));
    if (entry.run.kind() == RunKind::data) entry.run.segment = segment_to[entry.run.segment];
  }
}

bool range_before(const ErasedRange& a, const ErasedRange& b) {
  return std::tie(a.object, a.first) < std::tie(b.object, b.first);
}

// Sorts and joins ranges that overlap or touch.
std::vector<ErasedRange> join_ranges(std::vector<ErasedRange> ranges) {
  std::ranges::sort(ranges, range_before);
  std::vector<ErasedRange> out;
  for (const ErasedRange& range : ranges) {
    if (!out.empty() && out.back().object == range.object && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
      out.back().whole_object |= range.whole_object;
    } else {
      out.push_back(range);
    }
  }
  return out;
}

const ErasedRange* covering(const std::vector<ErasedRange>& erased, ObjectId object, u64 chunk) {
  const auto after = std::ranges::upper_bound(
      erased, ErasedRange{object, chunk, chunk, false}, range_before);
  if (after == erased.begin()) return nullptr;
  const ErasedRange& range = *std::prev(after);
  return range.object == object && chunk <= range.last ? &range : nullptr;
}

// Walks ranges alongside keys that only grow.
class ErasedCursor {
 public:
  explicit ErasedCursor(const std::vector<ErasedRange>& erased) : erased_(erased) {}
  bool covers(ObjectId object, u64 chunk) {
    while (next_ < erased_.size() &&
           (erased_[next_].object < object ||
            (erased_[next_].object == object && erased_[next_].last < chunk))) {
      ++next_;
    }
    return next_ < erased_.size() && erased_[next_].object == object &&
           erased_[next_].first <= chunk;
  }

 private:
  const std::vector<ErasedRange>& erased_;
  std::size_t next_ = 0;
};

}  // namespace

u64 Layer::memory_bytes() const {
  u64 bytes = objects.size() * sizeof(ObjectId) + segments.size() * sizeof(SegmentId) +
              entries.size() * sizeof(Entry) + erased.size() * sizeof(ErasedRange) + sizeof *this;
  for (const MetaEntry& entry : meta) {
    bytes += sizeof entry + entry.key.size() + (entry.value ? entry.value->size() : 0);
  }
  return bytes;
}

Layer fold(const Layer& newer, const Layer& older) {
  Layer out;
  std::vector<u32> object_new;
  std::vector<u32> object_old;
  std::vector<u32> segment_new;
  std::vector<u32> segment_old;
  out.objects = merge_tables(newer.objects, older.objects, object_new, object_old);
  out.segments = merge_tables(newer.segments, older.segments, segment_new, segment_old);

  const auto moved = [](const Entry& entry, const std::vector<u32>& objects,
                        const std::vector<u32>& segments) {
    Entry to = entry;
    to.key = key_of(objects[object_index_of(entry.key)], chunk_of(entry.key));
    if (entry.run.kind() == RunKind::data) to.run.segment = segments[entry.run.segment];
    return to;
  };

  out.entries.reserve(newer.entries.size() + older.entries.size());
  ErasedCursor erased(newer.erased);
  std::size_t i = 0;
  std::size_t j = 0;
  const std::size_t ni = newer.entries.size();
  const std::size_t nj = older.entries.size();
  const auto new_key = [&](std::size_t at) {
    const u64 key = newer.entries[at].key;
    return key_of(object_new[object_index_of(key)], chunk_of(key));
  };
  const auto old_key = [&](std::size_t at) {
    const u64 key = older.entries[at].key;
    return key_of(object_old[object_index_of(key)], chunk_of(key));
  };
  while (i < ni || j < nj) {
    const u64 a = i < ni ? new_key(i) : ~u64{0};
    const u64 b = j < nj ? old_key(j) : ~u64{0};
    const u64 key = std::min(a, b);
    u32 covered = 0;
    const std::size_t begin = out.entries.size();
    for (; i < ni && new_key(i) == key; ++i) {
      covered |= newer.entries[i].run.mask;
      out.entries.push_back(moved(newer.entries[i], object_new, segment_new));
    }
    if (b != key) continue;
    const bool gone = !newer.erased.empty() &&
                      erased.covers(out.objects[object_index_of(key)], chunk_of(key));
    for (; j < nj && old_key(j) == key; ++j) {
      if (gone) continue;
      Entry entry = moved(older.entries[j], object_old, segment_old);
      entry.run.mask &= ~covered;
      if (entry.run.mask != 0) out.entries.push_back(entry);
    }
    if (covered != 0 && out.entries.size() - begin > 1) {
      // By lowest page; parts of one source that are both here become one run again.
      std::sort(out.entries.begin() + static_cast<std::ptrdiff_t>(begin), out.entries.end(),
                [](const Entry& x, const Entry& y) {
                  return std::countr_zero(x.run.mask) < std::countr_zero(y.run.mask);
                });
    }
  }

  std::vector<ErasedRange> ranges = newer.erased;
  ranges.insert(ranges.end(), older.erased.begin(), older.erased.end());
  out.erased = join_ranges(std::move(ranges));

  out.meta.reserve(newer.meta.size() + older.meta.size());
  std::size_t m = 0;
  std::size_t n = 0;
  while (m < newer.meta.size() || n < older.meta.size()) {
    if (n == older.meta.size() ||
        (m < newer.meta.size() && newer.meta[m].key < older.meta[n].key)) {
      out.meta.push_back(newer.meta[m++]);
    } else if (m == newer.meta.size() || older.meta[n].key < newer.meta[m].key) {
      out.meta.push_back(older.meta[n++]);
    } else {
      out.meta.push_back(newer.meta[m++]);
      ++n;
    }
  }
  drop_unused(out);
  return out;
}

bool check_layer(const Layer& layer) {
  const auto increasing = [](const auto& table) {
    return std::ranges::adjacent_find(table, std::greater_equal()) == table.end();
  };
  if (!increasing(layer.objects) || !increasing(layer.segments)) return false;
  std::vector<bool> objects(layer.objects.size());
  std::vector<bool> segments(layer.segments.size());
  u64 previous_key = 0;
  u32 seen = 0;
  u32 lowest = 0;
  for (std::size_t i = 0; i < layer.entries.size(); ++i) {
    const Entry& entry = layer.entries[i];
    const u64 object = object_index_of(entry.key);
    if (object >= layer.objects.size() || entry.run.mask == 0) return false;
    objects[object] = true;
    if (i == 0 || entry.key != previous_key) {
      if (i != 0 && entry.key < previous_key) return false;
      seen = 0;
      lowest = 0;
    } else if (static_cast<u32>(std::countr_zero(entry.run.mask)) < lowest) {
      return false;
    }
    if ((seen & entry.run.mask) != 0) return false;
    seen |= entry.run.mask;
    lowest = static_cast<u32>(std::countr_zero(entry.run.mask));
    previous_key = entry.key;
    if (entry.run.kind() == RunKind::data) {
      if (entry.run.segment >= layer.segments.size()) return false;
      segments[entry.run.segment] = true;
      const FramePointer frame = entry.run.frame();
      const u32 end = u32{frame.first_page} + frame.page_count;
      if (end > kPagesPerChunk) return false;
      const u32 pages = ((1u << frame.page_count) - 1) << frame.first_page;
      if ((entry.run.mask & ~pages) != 0) return false;
    } else if (entry.run.segment != 0) {
      return false;
    }
  }
  if (!std::ranges::all_of(objects, std::identity())) return false;
  if (!std::ranges::all_of(segments, std::identity())) return false;
  for (std::size_t i = 0; i < layer.erased.size(); ++i) {
    const ErasedRange& range = layer.erased[i];
    if (range.first > range.last || range.last > kChunkIndexMax) return false;
    if (range.whole_object && (range.first != 0 || range.last != kChunkIndexMax)) return false;
    if (i == 0) continue;
    const ErasedRange& before = layer.erased[i - 1];
    if (!range_before(before, range)) return false;
    if (before.object == range.object && range.first <= before.last + 1) return false;
  }
  return std::ranges::adjacent_find(layer.meta, std::ranges::greater_equal(), &MetaEntry::key) ==
         layer.meta.end();
}

namespace {
// Index of the object in the layer's table, or none.
std::optional<u64> index_of_object(const Layer& layer, ObjectId object) {
  if (layer.objects.size() == 1) {
    if (layer.objects.front() != object) return {};
    return 0;
  }
  const auto at = std::ranges::lower_bound(layer.objects, object);
  if (at == layer.objects.end() || *at != object) return {};
  return static_cast<u64>(at - layer.objects.begin());
}
}  // namespace

u32 find_in_layer(const Layer& layer, ObjectId object, u64 chunk, u32 need,
                  std::vector<Found>& out) {
  if (const std::optional<u64> index = index_of_object(layer, object)) {
    const u64 key = key_of(*index, chunk);
    auto at = std::ranges::lower_bound(layer.entries, key, {}, &Entry::key);
    for (; at != layer.entries.end() && at->key == key && need != 0; ++at) {
      const u32 mask = at->run.mask & need;
      if (mask == 0) continue;
      Found found{.mask = mask, .kind = at->run.kind(), .segment = {}, .frame = {}};
      if (found.kind == RunKind::data) {
        found.segment = layer.segments[at->run.segment];
        found.frame = at->run.frame();
      }
      out.push_back(found);
      need &= ~mask;
    }
  }
  if (need != 0 && erased_in_layer(layer, object, chunk)) {
    out.push_back({.mask = need, .kind = RunKind::hole, .segment = {}, .frame = {}});
    need = 0;
  }
  return need;
}

bool erased_in_layer(const Layer& layer, ObjectId object, u64 chunk) {
  return covering(layer.erased, object, chunk) != nullptr;
}

const MetaEntry* find_meta(const Layer& layer, std::string_view key) {
  const auto at = std::ranges::lower_bound(layer.meta, key, {}, [](const MetaEntry& entry) {
    return std::string_view(entry.key);
  });
  return at != layer.meta.end() && at->key == key ? &*at : nullptr;
}

std::vector<u64> chunks_in_layer(const Layer& layer, ObjectId object, u64 first, u64 last,
                                 std::size_t count_max) {
  std::vector<u64> out;
  const std::optional<u64> index = index_of_object(layer, object);
  if (!index) return out;
  auto at = std::ranges::lower_bound(layer.entries, key_of(*index, first), {}, &Entry::key);
  for (; at != layer.entries.end() && at->key <= key_of(*index, last); ++at) {
    const u64 chunk = chunk_of(at->key);
    if (!out.empty() && out.back() == chunk) continue;
    if (out.size() == count_max) break;
    out.push_back(chunk);
  }
  return out;
}

EntryView view_of(const Layer& layer, const Entry& entry) {
  return {layer.objects[object_index_of(entry.key)], chunk_of(entry.key)};
}

// ---- builder

void LayerBuilder::add_data(ObjectId object, u64 chunk, u32 mask, SegmentId segment,
                            const FramePointer& frame) {
  INVARIANT(mask != 0 && chunk <= kChunkIndexMax);
  items_.push_back({object, chunk, next_order_++, mask, RunKind::data, segment, frame});
}

void LayerBuilder::add_empty(ObjectId object, u64 chunk, u32 mask, RunKind kind) {
  INVARIANT(mask != 0 && chunk <= kChunkIndexMax && kind != RunKind::data);
  items_.push_back({object, chunk, next_order_++, mask, kind, {}, {}});
}

void LayerBuilder::erase(const ErasedRange& range) {
  INVARIANT(range.first <= range.last && range.last <= kChunkIndexMax);
  erases_.push_back({range, next_order_++});
}

void LayerBuilder::put_meta(std::string key, std::optional<std::string> value) {
  meta_.insert_or_assign(std::move(key), std::move(value));
}

Layer LayerBuilder::build() && {
  Layer out;
  // Newest first within a chunk: the first source of a page is the one that counts.
  const auto before = [](const Item& a, const Item& b) {
    return std::tie(a.object, a.chunk, b.order) < std::tie(b.object, b.chunk, a.order);
  };
  if (!std::ranges::is_sorted(items_, before)) std::ranges::sort(items_, before);
  for (const Item& item : items_) {
    if (out.objects.empty() || out.objects.back() != item.object) out.objects.push_back(item.object);
    if (item.kind == RunKind::data &&
        (out.segments.empty() || out.segments.back() != item.segment)) {
      out.segments.push_back(item.segment);
    }
  }
  std::ranges::sort(out.segments);
  const auto repeated = std::ranges::unique(out.segments);
  out.segments.erase(repeated.begin(), repeated.end());

  // Sealing adds all erases first; then none of them can touch an item.
  u64 first_item = ~u64{0};
  for (const Item& item : items_) first_item = std::min(first_item, item.order);
  std::vector<Erase> late_erases;
  std::ranges::copy_if(erases_, std::back_inserter(late_erases),
                       [&](const Erase& erase) { return erase.order > first_item; });

  out.entries.reserve(items_.size());
  u64 object_index = 0;
  for (std::size_t i = 0; i < items_.size();) {
    const ObjectId object = items_[i].object;
    const u64 chunk = items_[i].chunk;
    while (out.objects[object_index] != object) ++object_index;
    u64 erased_at = 0;  // order + 1 of the newest erase over the chunk that came after an item
    for (const Erase& erase : late_erases) {
      if (erase.range.object == object && erase.range.first <= chunk && chunk <= erase.range.last) {
        erased_at = std::max(erased_at, erase.order + 1);
      }
    }
    const std::size_t begin = out.entries.size();
    u32 covered = 0;
    for (; i < items_.size() && items_[i].object == object && items_[i].chunk == chunk; ++i) {
      const Item& item = items_[i];
      const u32 mask = item.mask & ~covered;
      if (mask == 0 || item.order + 1 < erased_at) continue;
      covered |= mask;
      Run run = Run::empty(mask, item.kind);
      if (item.kind == RunKind::data) {
        const auto at = std::ranges::lower_bound(out.segments, item.segment);
        run = Run::data(mask, static_cast<u32>(at - out.segments.begin()), item.frame);
      }
      out.entries.push_back({key_of(object_index, chunk), run});
    }
    std::sort(out.entries.begin() + static_cast<std::ptrdiff_t>(begin), out.entries.end(),
              [](const Entry& x, const Entry& y) {
                return std::countr_zero(x.run.mask) < std::countr_zero(y.run.mask);
              });
  }
  drop_unused(out);

  std::vector<ErasedRange> ranges;
  ranges.reserve(erases_.size());
  for (const Erase& erase : erases_) ranges.push_back(erase.range);
  out.erased = join_ranges(std::move(ranges));

  out.meta.reserve(meta_.size());
  for (auto& [key, value] : meta_) out.meta.push_back({key, std::move(value)});
  return out;
}

}  // namespace zerofs::lsm
