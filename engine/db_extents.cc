// What a range holds: data, zeroes or holes. Only chunks that some layer names can hold anything,
// so the work grows with what is there and not with the length of the range.
#include <algorithm>
#include <bit>

#include "engine/db_impl.h"

namespace zerofs {

namespace {

// Chunks looked at in one call; the answer is cut there, as the protocols allow.
constexpr std::size_t kCandidatesMax = 16384;

// Collects chunks of several sources that may each be cut; what lies above the lowest cut is not
// known completely.
struct Candidates {
  u64 first;
  u64 last;
  std::vector<u64> chunks;
  u64 known_last;

  void add(std::vector<u64> source) {
    std::ranges::sort(source);
    if (source.size() >= kCandidatesMax) {
      source.resize(kCandidatesMax);
      known_last = std::min(known_last, source.back());
    }
    chunks.insert(chunks.end(), source.begin(), source.end());
  }
};

ExtentKind kind_of(cache::PageIndex page) {
  if (cache::is_memory(page)) return ExtentKind::data;
  return page == cache::kZeroPage ? ExtentKind::zero : ExtentKind::hole;
}
ExtentKind kind_of(lsm::RunKind kind) {
  switch (kind) {
    case lsm::RunKind::data: return ExtentKind::data;
    case lsm::RunKind::zero: return ExtentKind::zero;
    case lsm::RunKind::hole: break;
  }
  return ExtentKind::hole;
}

// Joins neighbours of one kind.
void append(std::vector<Extent>& out, u64 bytes, ExtentKind kind) {
  if (bytes == 0) return;
  if (!out.empty() && out.back().kind == kind) {
    out.back().bytes += bytes;
  } else {
    out.push_back({bytes, kind});
  }
}

}  // namespace

Task<std::vector<Extent>> Db::Impl::extents(Object& object, u64 offset, u64 bytes, u32 count_max) {
  co_await usable();
  Operation operation(*this);
  const u64 end = offset + bytes;
  Candidates candidates{.first = offset / kChunkBytes,
                        .last = (end - 1) / kChunkBytes,
                        .chunks = {},
                        .known_last = (end - 1) / kChunkBytes};
  const auto inside = [&](u64 chunk) {
    return chunk >= candidates.first && chunk <= candidates.last;
  };
  const std::shared_ptr<const lsm::TableSet> tables = tables_;
  {
    std::vector<u64> dirty;
    for (const auto index : open_.nodes) {
      const cache::Node& node = cache_.node(index);
      if (node.object == &object && inside(node.chunk)) dirty.push_back(node.chunk);
    }
    for (const auto& batch : log_.batches()) {
      for (const auto& item : batch->items) {
        if (item.object == object.id() && inside(item.chunk)) dirty.push_back(item.chunk);
      }
    }
    candidates.add(std::move(dirty));
  }
  for (const lsm::LayerRef& layer : memtable_.layers()) {
    candidates.add(lsm::chunks_in_layer(*layer, object.id(), candidates.first, candidates.last,
                                        kCandidatesMax));
  }
  for (const lsm::TableRef& table : tables->newest_first()) {
    Result<std::vector<u64>> chunks = co_await as_result(table->chunks_between(
        object.id(), candidates.first, candidates.last, kCandidatesMax));
    if (!chunks) co_return std::unexpected(co_await judge_lookup(chunks.error()));
    candidates.add(std::move(*chunks));
  }
  std::ranges::sort(candidates.chunks);
  const auto repeated = std::ranges::unique(candidates.chunks);
  candidates.chunks.erase(repeated.begin(), repeated.end());

  std::vector<Extent> out;
  u64 at = offset;
  const u64 known_end = std::min(end, (candidates.known_last + 1) * kChunkBytes);
  for (const u64 chunk : candidates.chunks) {
    const u64 chunk_begin = chunk * kChunkBytes;
    if (chunk_begin >= known_end || out.size() > count_max) break;
    if (chunk_begin > at) {
      append(out, chunk_begin - at, ExtentKind::hole);
      at = chunk_begin;
    }
    // Pages of the chunk: what the cache knows, then what the layers say of the rest.
    ExtentKind kinds[kPagesPerChunk] = {};
    const cache::Node* node = cache_.find(object, chunk);
    const u32 present = node != nullptr ? node->present : 0;
    for (u32 left = present; left != 0; left &= left - 1) {
      const int index = std::countr_zero(left);
      kinds[index] = kind_of(node->pages[index]);
    }
    if (present != ~0u) {
      std::vector<lsm::Found> found;
      co_await resolve(object.id(), chunk, ~present, 0, found);
      for (const lsm::Found& part : found) {
        for (u32 left = part.mask; left != 0; left &= left - 1) {
          kinds[std::countr_zero(left)] = kind_of(part.kind);
        }
      }
    }
    const u64 chunk_end = std::min(known_end, chunk_begin + kChunkBytes);
    while (at < chunk_end) {
      const u64 page_end = std::min(chunk_end, (at / kPageBytes + 1) * kPageBytes);
      append(out, page_end - at, kinds[at / kPageBytes % kPagesPerChunk]);
      at = page_end;
    }
  }
  if (at < known_end && out.size() <= count_max) append(out, known_end - at, ExtentKind::hole);
  if (out.size() > count_max) out.resize(count_max);
  co_return std::move(out);
}

}  // namespace zerofs
