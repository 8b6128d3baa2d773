#include "tests/sim/model.h"

#include <fmt/format.h>

#include <algorithm>

namespace zerofs::sim {

bool PageValue::equals(const std::byte* other) const {
  static constexpr PageBytes kZeroes{};
  return std::memcmp(other, kind == ExtentKind::data ? bytes->data() : kZeroes.data(),
                     kPageBytes) == 0;
}

void fill_stamped(u64 stamp, MutableBytes out) {
  // Every third write is noise, which is stored; the others compress.
  const bool noise = stamp % 3 == 0;
  u64 state = mix(stamp);
  for (std::size_t at = 0; at < out.size(); at += 8) {
    u64 word = stamp;
    if (noise) {
      word = state = state * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
    } else if (at % 512 == 0) {
      word = at;
    }
    std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, out.size() - at));
  }
}

PageValue Model::page(u64 object, u64 page) const {
  const auto at = objects_.find(object);
  if (at == objects_.end()) return {};
  const auto found = at->second.find(page);
  return found == at->second.end() ? PageValue{} : found->second;
}

void Model::set(u64 object, u64 page, PageValue value) {
  ambiguous_.erase({object, page});
  if (value.kind == ExtentKind::hole) {
    objects_[object].erase(page);
  } else {
    objects_[object].insert_or_assign(page, std::move(value));
  }
}

void Model::adopt(Place place, PageValue value) {
  set(place.first, place.second, std::move(value));
}

void Model::patch(u64 object, u64 offset, Bytes data) {
  while (!data.empty()) {
    const u64 begin = offset % kPageBytes;
    const u64 count = std::min<u64>(kPageBytes - begin, data.size());
    auto bytes = std::make_shared<PageBytes>();
    if (count != kPageBytes) {
      const PageValue old = page(object, offset / kPageBytes);
      if (old.kind == ExtentKind::data) {
        *bytes = *old.bytes;
      } else {
        bytes->fill(std::byte{0});
      }
    }
    std::memcpy(bytes->data() + begin, data.data(), count);
    set(object, offset / kPageBytes, {ExtentKind::data, std::move(bytes)});
    offset += count;
    data = data.subspan(count);
  }
}

void Model::write(const WriteChange& change) {
  std::vector<std::byte> data(change.bytes);
  fill_stamped(change.stamp, data);
  patch(change.object, change.offset, data);
}

void Model::empty(const EmptyChange& change) {
  static constexpr PageBytes kZeroes{};
  const u64 end = change.offset + change.bytes;
  const u64 first = (change.offset + kPageBytes - 1) / kPageBytes;
  const u64 last = end / kPageBytes;  // exclusive
  if (change.partial) {
    const u64 head_end = std::min(end, first * kPageBytes);
    if (change.offset < head_end) {
      patch(change.object, change.offset, {kZeroes.data(), head_end - change.offset});
    }
    const u64 tail = std::max(head_end, last * kPageBytes);
    if (first <= last && tail < end) patch(change.object, tail, {kZeroes.data(), end - tail});
  }
  if (first >= last) return;
  if (change.as == ExtentKind::zero) {
    for (u64 page = first; page < last; ++page) set(change.object, page, {ExtentKind::zero, {}});
    return;
  }
  Pages& pages = objects_[change.object];
  pages.erase(pages.lower_bound(first), pages.lower_bound(last));
  ambiguous_.erase(ambiguous_.lower_bound({change.object, first}),
                   ambiguous_.lower_bound({change.object, last}));
}

void Model::apply(const Change& change) {
  if (const auto* write_it = std::get_if<WriteChange>(&change)) {
    write(*write_it);
  } else if (const auto* empty_it = std::get_if<EmptyChange>(&change)) {
    empty(*empty_it);
  } else if (const auto* cut = std::get_if<TruncateChange>(&change)) {
    const u64 at = cut->size;
    const PageValue edge = page(cut->object, at / kPageBytes);
    if (at % kPageBytes != 0 && edge.kind == ExtentKind::data && !edge.kind_unclear) {
      static constexpr PageBytes kZeroes{};
      patch(cut->object, at, {kZeroes.data(), kPageBytes - at % kPageBytes});
    }
    const u64 first = (at + kPageBytes - 1) / kPageBytes;
    Pages& pages = objects_[cut->object];
    pages.erase(pages.lower_bound(first), pages.end());
    ambiguous_.erase(ambiguous_.lower_bound({cut->object, first}),
                     ambiguous_.lower_bound({cut->object + 1, 0}));
  } else if (const auto* erased = std::get_if<EraseChange>(&change)) {
    objects_[erased->object].clear();
    ambiguous_.erase(ambiguous_.lower_bound({erased->object, 0}),
                     ambiguous_.lower_bound({erased->object + 1, 0}));
  } else {
    const MetaChange& meta = std::get<MetaChange>(change);
    if (meta.value) {
      meta_.insert_or_assign(meta.key, *meta.value);
    } else {
      meta_.erase(meta.key);
    }
  }
}

void Model::collect_places(const Model& model, const Change& change, std::vector<Place>& out) {
  const auto range = [&](u64 object, u64 first, u64 end, bool adds_pages) {
    if (adds_pages || end - first <= 64) {
      for (u64 page = first; page < end; ++page) out.push_back({object, page});
      return;
    }
    const auto pages = model.objects_.find(object);
    if (pages == model.objects_.end()) return;
    for (auto at = pages->second.lower_bound(first); at != pages->second.lower_bound(end); ++at) {
      out.push_back({object, at->first});
    }
  };
  if (const auto* write_it = std::get_if<WriteChange>(&change)) {
    range(write_it->object, write_it->offset / kPageBytes,
          (write_it->offset + write_it->bytes + kPageBytes - 1) / kPageBytes, true);
  } else if (const auto* empty_it = std::get_if<EmptyChange>(&change)) {
    range(empty_it->object, empty_it->offset / kPageBytes,
          (empty_it->offset + empty_it->bytes + kPageBytes - 1) / kPageBytes,
          empty_it->as == ExtentKind::zero);
    // The edges of a long one may become data of their own.
    out.push_back({empty_it->object, empty_it->offset / kPageBytes});
    out.push_back({empty_it->object, (empty_it->offset + empty_it->bytes) / kPageBytes});
  } else if (const auto* cut = std::get_if<TruncateChange>(&change)) {
    range(cut->object, cut->size / kPageBytes, kObjectBytesMax / kPageBytes, false);
  } else if (const auto* erased = std::get_if<EraseChange>(&change)) {
    range(erased->object, 0, kObjectBytesMax / kPageBytes, false);
  }
}

void Model::apply_maybe(const Change& change) {
  std::vector<Place> places;
  collect_places(*this, change, places);
  std::map<Place, std::vector<PageValue>> values;
  for (const Place& place : places) {
    std::vector<PageValue>& before = values[place];
    if (const auto known = ambiguous_.find(place); known != ambiguous_.end()) {
      before = known->second;
    } else {
      before = {page(place.first, place.second)};
    }
  }
  apply(change);
  for (auto& [place, candidates] : values) {
    candidates.push_back(page(place.first, place.second));
    ambiguous_[place] = std::move(candidates);
  }
}

std::string describe(const Change& change) {
  if (const auto* write_it = std::get_if<WriteChange>(&change)) {
    return fmt::format("write {:x} +{} {} bytes, stamp {:x}", write_it->object, write_it->offset,
                       write_it->bytes, write_it->stamp);
  }
  if (const auto* empty_it = std::get_if<EmptyChange>(&change)) {
    return fmt::format("{}{} {:x} +{} {} bytes", empty_it->partial ? "write zeroes" : "discard",
                       empty_it->as == ExtentKind::zero ? ", allocated" : "", empty_it->object,
                       empty_it->offset, empty_it->bytes);
  }
  if (const auto* cut = std::get_if<TruncateChange>(&change)) {
    return fmt::format("truncate {:x} to {}", cut->object, cut->size);
  }
  if (const auto* erased = std::get_if<EraseChange>(&change)) {
    return fmt::format("delete object {:x}", erased->object);
  }
  const MetaChange& meta = std::get<MetaChange>(change);
  return fmt::format("{} {}", meta.value ? "put" : "delete", meta.key);
}

u64 steps_of(const EmptyChange& change) {
  const u64 end = change.offset + change.bytes;
  const u64 first = (change.offset + kPageBytes - 1) / kPageBytes;
  const u64 last = end / kPageBytes;
  u64 steps = 0;
  if (change.partial) {
    if (change.offset % kPageBytes != 0) ++steps;
    if (first <= last && end % kPageBytes != 0) ++steps;
  }
  for (u64 page = first; page < last; ++steps) {
    const u64 in_chunk = page % kPagesPerChunk;
    const u64 whole = in_chunk == 0 ? (last - page) / kPagesPerChunk : 0;
    if (change.as == ExtentKind::hole && whole != 0) {
      page += whole * kPagesPerChunk;
    } else {
      page += std::min<u64>(kPagesPerChunk - in_chunk, last - page);
    }
  }
  return steps;
}

}  // namespace zerofs::sim
