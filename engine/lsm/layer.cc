#include "engine/lsm/layer.h"

#include <algorithm>
#include <tuple>

#include "engine/base/mutant.h"
#include "engine/lsm/layer_parts.h"

namespace zerofs::lsm {

namespace {

// Where the elements of one sorted table go in the union of two. Never empty, so that looking up
// element 0 is harmless even for a run that has no segment.
using Renumbering = std::vector<u32>;

template <class T>
struct Union {
  std::vector<T> table;
  Renumbering from_newer;
  Renumbering from_older;
};

template <class T>
Union<T> unite(const std::vector<T>& newer, const std::vector<T>& older) {
  Union<T> out;
  out.table.reserve(newer.size() + older.size());
  out.from_newer.resize(newer.size() + 1);
  out.from_older.resize(older.size() + 1);
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < newer.size() || j < older.size()) {
    const u32 to = static_cast<u32>(out.table.size());
    const bool take_newer = j == older.size() || (i < newer.size() && newer[i] <= older[j]);
    const bool take_older = i == newer.size() || (j < older.size() && older[j] <= newer[i]);
    out.table.push_back(take_newer ? newer[i] : older[j]);
    if (take_newer) out.from_newer[i++] = to;
    if (take_older) out.from_older[j++] = to;
  }
  return out;
}

// One side of a merge: its entries, renumbered as they are taken.
class Source {
 public:
  Source(const Layer& layer, const Renumbering& objects, const Renumbering& segments)
      : at_(layer.entries.data()),
        end_(at_ + layer.entries.size()),
        objects_(objects.data()),
        segments_(segments.data()) {}

  bool at_end() const { return at_ == end_; }
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  u64 key() const { return key_of(objects_[object_index_of(at_->key)], chunk_of(at_->key)); }
  Entry take() {
    Entry entry = *at_;
    entry.key = key();
    entry.run.segment = entry.run.kind() == RunKind::data ? segments_[entry.run.segment] : 0;
    ++at_;
    return entry;
  }
  void skip() { ++at_; }

 private:
  const Entry* at_;
  const Entry* end_;
  const u32* objects_;
  const u32* segments_;
};

// The entries of both, as fold() wants them. Whether anything was dropped.
bool merge_entries(Source newer, Source older, const std::vector<ErasedRange>& erased, Layer& out) {
  const std::size_t total = newer.left() + older.left();
  std::vector<Entry>& entries = out.entries;
  entries.reserve(total);
  ErasedCursor cursor(erased);
  const auto gone = [&](u64 key) {
    return !erased.empty() && cursor.covers(out.objects[object_index_of(key)], chunk_of(key));
  };
  while (!newer.at_end() && !older.at_end()) {
    const u64 a = newer.key();
    const u64 b = older.key();
    if (a < b) {
      entries.push_back(newer.take());
      continue;
    }
    if (b < a) {
      if (gone(b)) {
        older.skip();
      } else {
        entries.push_back(older.take());
      }
      continue;
    }
    const std::size_t begin = entries.size();
    u32 covered = 0;
    for (; !newer.at_end() && newer.key() == a; covered |= entries.back().run.mask) {
      entries.push_back(newer.take());
    }
    if (gone(a)) covered = ~u32{0};
    for (; !older.at_end() && older.key() == a;) {
      Entry entry = older.take();
      entry.run.mask &= ~covered;
      if (entry.run.mask != 0) entries.push_back(entry);
    }
    settle_chunk(entries, begin);
  }
  while (!newer.at_end()) entries.push_back(newer.take());
  while (!older.at_end()) {
    if (gone(older.key())) {
      older.skip();
    } else {
      entries.push_back(older.take());
    }
  }
  return entries.size() != total;
}

std::vector<MetaEntry> merge_meta(const std::vector<MetaEntry>& newer,
                                  const std::vector<MetaEntry>& older) {
  std::vector<MetaEntry> out;
  out.reserve(newer.size() + older.size());
  auto at = older.begin();
  for (const MetaEntry& entry : newer) {
    while (at != older.end() && at->key < entry.key) out.push_back(*at++);
    if (at != older.end() && at->key == entry.key) ++at;
    out.push_back(entry);
  }
  out.insert(out.end(), at, older.end());
  return out;
}

// The first entry whose key is not below `key`. Without a branch on what is compared, so that a
// search costs its cache misses and no mispredictions.
std::size_t lower_bound(const std::vector<Entry>& entries, u64 key) {
  const Entry* base = entries.data();
  std::size_t left = entries.size();
  while (left > 1) {
    const std::size_t half = left / 2;
    left -= half;
    __builtin_prefetch(base + left / 2 - 1);
    __builtin_prefetch(base + half + left / 2 - 1);
    base += base[half - 1].key < key ? half : 0;
  }
  const std::size_t at = static_cast<std::size_t>(base - entries.data());
  return left == 1 && base->key < key ? at + 1 : at;
}

// Index of the object in the layer's table, or none.
std::optional<u64> index_of_object(const Layer& layer, ObjectId object) {
  const auto at = std::ranges::lower_bound(layer.objects, object);
  if (at == layer.objects.end() || *at != object) return {};
  return static_cast<u64>(at - layer.objects.begin());
}

}  // namespace

u64 Layer::memory_bytes() const {
  u64 bytes = sizeof *this + objects.capacity() * sizeof(ObjectId) +
              segments.capacity() * sizeof(SegmentId) + entries.capacity() * sizeof(Entry) +
              erased.capacity() * sizeof(ErasedRange) + meta.capacity() * sizeof(MetaEntry);
  for (const MetaEntry& entry : meta) {
    bytes += heap_bytes(entry.key) + (entry.value ? heap_bytes(*entry.value) : 0);
  }
  return bytes;
}

Layer fold(const Layer& newer, const Layer& older) {
  Union<ObjectId> objects = unite(newer.objects, older.objects);
  Union<SegmentId> segments = unite(newer.segments, older.segments);
  INVARIANT(objects.table.size() <= kObjectsPerLayerMax);

  Layer out;
  out.objects = std::move(objects.table);
  out.segments = std::move(segments.table);
  const bool dropped =
      merge_entries(Source(newer, objects.from_newer, segments.from_newer),
                    Source(older, objects.from_older, segments.from_older), newer.erased, out);
  if (dropped) drop_unused(out);

  out.erased.reserve(newer.erased.size() + older.erased.size());
  if (MUTANT(fold_loses_erases)) {
    out.erased = newer.erased;
  } else {
    std::ranges::merge(newer.erased, older.erased, std::back_inserter(out.erased), range_before);
  }
  join_ranges(out.erased);
  out.meta = merge_meta(newer.meta, older.meta);
  return out;
}

namespace {

bool entry_is_sound(const Layer& layer, const Entry& entry) {
  if (object_index_of(entry.key) >= layer.objects.size() || entry.run.mask == 0) return false;
  if (entry.run.kind() > RunKind::hole) return false;
  if (entry.run.kind() != RunKind::data) {
    return entry.run == Run::empty(entry.run.mask, entry.run.kind());
  }
  const FramePointer frame = entry.run.frame();
  if (entry.run.segment >= layer.segments.size()) return false;
  if (frame.first_page + frame.page_count > kPagesPerChunk) return false;
  return (entry.run.mask & ~frame_mask(frame)) == 0;
}

bool entries_are_sound(const Layer& layer) {
  std::vector<bool> objects(layer.objects.size());
  std::vector<bool> segments(layer.segments.size());
  const Entry* previous = nullptr;
  u32 seen = 0;  // pages of this key
  for (const Entry& entry : layer.entries) {
    if (!entry_is_sound(layer, entry)) return false;
    const bool same_key = previous != nullptr && previous->key == entry.key;
    if (!same_key) seen = 0;
    if (same_key ? !run_before(previous->run, entry.run)
                 : previous != nullptr && entry.key < previous->key) {
      return false;
    }
    if ((seen & entry.run.mask) != 0) return false;
    seen |= entry.run.mask;
    objects[object_index_of(entry.key)] = true;
    if (entry.run.kind() == RunKind::data) segments[entry.run.segment] = true;
    previous = &entry;
  }
  return std::ranges::all_of(objects, std::identity()) &&
         std::ranges::all_of(segments, std::identity());
}

bool erased_is_sound(const std::vector<ErasedRange>& erased) {
  const ErasedRange* previous = nullptr;
  for (const ErasedRange& range : erased) {
    if (range.first > range.last || range.last > kChunkIndexMax) return false;
    if (previous != nullptr) {
      if (!range_before(*previous, range)) return false;
      if (previous->object == range.object && range.first <= previous->last + 1) return false;
    }
    previous = &range;
  }
  return true;
}

}  // namespace

bool check_layer(const Layer& layer) {
  const auto increasing = [](const auto& table) {
    return std::ranges::adjacent_find(table, std::greater_equal()) == table.end();
  };
  return layer.objects.size() <= kObjectsPerLayerMax && increasing(layer.objects) &&
         increasing(layer.segments) && entries_are_sound(layer) && erased_is_sound(layer.erased) &&
         std::ranges::adjacent_find(layer.meta, std::greater_equal(), &MetaEntry::key) ==
             layer.meta.end();
}

u32 find_in_layer(const Layer& layer, ObjectId object, u64 chunk, u32 need,
                  std::vector<Found>& out) {
  INVARIANT(chunk <= kChunkIndexMax);
  if (const std::optional<u64> index = index_of_object(layer, object)) {
    const u64 key = key_of(*index, chunk);
    for (std::size_t at = lower_bound(layer.entries, key);
         at < layer.entries.size() && layer.entries[at].key == key && need != 0; ++at) {
      const Run& run = layer.entries[at].run;
      const u32 mask = run.mask & need;
      if (mask == 0) continue;
      need &= ~mask;
      if (run.kind() == RunKind::data) {
        out.push_back({mask, RunKind::data, layer.segments[run.segment], run.frame()});
      } else {
        out.push_back({mask, run.kind(), {}, {}});
      }
    }
  }
  if (need != 0 && erased_in_layer(layer, object, chunk) && !MUTANT(erase_falls_through)) {
    out.push_back({need, RunKind::hole, {}, {}});
    need = 0;
  }
  return need;
}

bool erased_in_layer(const Layer& layer, ObjectId object, u64 chunk) {
  return covers(layer.erased, object, chunk);
}

bool covers(std::span<const ErasedRange> erased, ObjectId object, u64 chunk) {
  if (erased.empty()) return false;
  const auto after =
      std::ranges::upper_bound(erased, ErasedRange{object, chunk, chunk, false}, range_before);
  if (after == erased.begin()) return false;
  const ErasedRange& range = *std::prev(after);
  return range.object == object && chunk <= range.last;
}

std::vector<u64> chunks_in_layer(const Layer& layer, ObjectId object, u64 first, u64 last,
                                 std::size_t count_max) {
  INVARIANT(first <= last && last <= kChunkIndexMax);
  std::vector<u64> out;
  const std::optional<u64> index = index_of_object(layer, object);
  if (!index) return out;
  const u64 last_key = key_of(*index, last);
  for (std::size_t at = lower_bound(layer.entries, key_of(*index, first));
       at < layer.entries.size() && layer.entries[at].key <= last_key; ++at) {
    const u64 chunk = chunk_of(layer.entries[at].key);
    if (!out.empty() && out.back() == chunk) continue;
    if (out.size() == count_max) break;
    out.push_back(chunk);
  }
  return out;
}

EntryView view_of(const Layer& layer, const Entry& entry) {
  return {layer.objects[object_index_of(entry.key)], chunk_of(entry.key)};
}

const MetaEntry* find_meta(const Layer& layer, std::string_view key) {
  const auto at = std::ranges::lower_bound(
      layer.meta, key, {}, [](const MetaEntry& entry) { return std::string_view(entry.key); });
  return at != layer.meta.end() && at->key == key ? &*at : nullptr;
}

}  // namespace zerofs::lsm
