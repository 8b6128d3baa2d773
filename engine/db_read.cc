// Reads. A hit pins pages and answers at once. A miss looks the chunk up in the read view, fetches
// the frames that hold the pages and fills the cache, then pins.
//
// The read view below the cache, newest first: erased ranges of the open and the sealed batches
// (their entries are in the cache, see page_cache.h), memtable layers, tables. It is taken in one
// step: a lookup that has to wait for a table goes on with the tables of that moment.
//
// Frames in flight are shared by (segment, offset). Every reader inserts the pages that *its*
// lookup resolved to the frame: an unasked page may be newer elsewhere.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <deque>
#include <ranges>

#include "engine/base/mutant.h"
#include "engine/db_impl.h"
#include "engine/store/backoff.h"

namespace zerofs {

using cache::kHolePage;
using cache::kNoPage;
using cache::kZeroPage;
using cache::Node;
using cache::PageIndex;
using lsm::Found;
using lsm::RunKind;

namespace {
// Frames of one GET: neighbours, with gaps not worth a request of their own.
constexpr u64 kGetGapMax = 64 * kKiB;
constexpr u64 kGetBytesMax = 4 * kMiB;
constexpr u32 kGetPagesMax = 1024;

u32 mask_between(u64 chunk, u64 first_page, u64 end_page) {
  const u64 begin = chunk * kPagesPerChunk;
  const u64 first = std::max(first_page, begin) - begin;
  const u64 end = std::min(end_page, begin + kPagesPerChunk) - begin;
  const u64 count = end - first;
  return static_cast<u32>(((u64{1} << count) - 1) << first);
}
}  // namespace

struct Db::Impl::FrameFlight {
  FrameFlight(Executor& executor, cache::PageSlab& slab, lsm::SegmentId segment,
              lsm::FramePointer frame)
      : slab(slab), segment(segment), frame(frame), arrived(executor) {}
  ~FrameFlight() {
    for (const PageIndex page : pages) slab.release(page);
  }
  cache::PageSlab& slab;
  lsm::SegmentId segment;
  lsm::FramePointer frame;
  Event arrived;
  bool done = false;
  std::optional<Error> error;
  std::vector<PageIndex> pages;  // one reference each, once done without error
};

// One chunk being filled.
struct Db::Impl::ChunkFill {
  ChunkFill(cache::PageCache& cache, Node& node, u32 asked)
      : cache(cache), node(&node), asked(asked) {
    cache::PageCache::begin_flight(node, flight);
  }
  ~ChunkFill() { cache.end_flight(flight); }
  cache::PageCache& cache;
  Node* node;
  u32 asked;
  cache::Flight flight;
  std::vector<Found> found;
  std::vector<std::shared_ptr<FrameFlight>> flights;  // of found[i]; null unless data
};

// ---- hits

bool Db::Impl::pin(Object& object, u64 offset, u32 bytes, bool touch, std::vector<Piece>& out) {
  const std::size_t begin = out.size();
  const u64 end = offset + bytes;
  u64 at = offset;
  while (at < end) {
    const u64 chunk = at / kChunkBytes;
    const u64 chunk_end = std::min(end, (chunk + 1) * kChunkBytes);
    const u32 need =
        mask_between(chunk, at / kPageBytes, (chunk_end + kPageBytes - 1) / kPageBytes);
    Node* node = cache_.find(object, chunk);
    if (node == nullptr || (node->present & need) != need) {
      unpin(std::span(out).subspan(begin));
      out.resize(begin);
      return false;
    }
    if (touch) node->touched |= need;
    while (at < chunk_end) {
      const u32 begin_in_page = at % kPageBytes;
      const u32 count = static_cast<u32>(std::min<u64>(kPageBytes - begin_in_page, chunk_end - at));
      const PageIndex page = node->pages[at / kPageBytes % kPagesPerChunk];
      at += count;
      if (cache::is_memory(page)) {
        slab_->reference(page);
        out.push_back({slab_->data(page) + begin_in_page, count, page});
      } else if (out.size() > begin && out.back().is_zeroes() &&
                 out.back().bytes + count <= kChunkBytes) {
        out.back().bytes += count;
      } else {
        out.push_back({cache::zero_chunk(), count, page});
      }
    }
  }
  return true;
}

void Db::Impl::unpin(std::span<const Piece> pieces) {
  for (const Piece& piece : pieces) {
    if (!piece.is_zeroes()) slab_->release(piece.page);
  }
  if (room_.has_waiters()) room_.wake_all();
}

void Db::Impl::expect(const Object& object, std::span<const u64> offsets) const {
  for (const u64 offset : offsets) cache_.prefetch_bucket(object, offset / kChunkBytes);
  for (const u64 offset : offsets) {
    cache_.prefetch_node(object, offset / kChunkBytes, offset / kPageBytes % kPagesPerChunk);
  }
  for (const u64 offset : offsets) {
    cache_.prefetch_page(object, offset / kChunkBytes, offset / kPageBytes % kPagesPerChunk);
  }
}

// ---- misses

Task<> Db::Impl::read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out) {
  co_await usable();
  Operation operation(*this);
  // Cold reads hold what they pinned while they wait for more: admit only what fits together.
  const u64 pages = bytes / kPageBytes + 2;
  while (reading_pages_ != 0 && reading_pages_ + pages > reading_pages_max_) {
    co_await room_.wait();
    co_await usable();
  }
  reading_pages_ += pages;
  read_ahead(object, object.streams().missed(offset, bytes, ahead_max()));
  const std::size_t begin = out.size();
  const u64 end = offset + bytes;
  Result<> result;
  for (u64 at = offset; at < end && result;) {
    const u64 window_end = std::min(end, (at / kReadWindowBytes + 1) * kReadWindowBytes);
    const u32 window = static_cast<u32>(window_end - at);
    // What was fetched may have been discarded, or evicted, before the last of it came.
    while (result && !pin(object, at, window, false, out)) {
      result = co_await as_result(fetch(object, at, window));
    }
    at = window_end;
  }
  reading_pages_ -= pages;
  if (room_.has_waiters()) room_.wake_all();
  if (!result) {
    unpin(std::span(out).subspan(begin));
    out.resize(begin);
  }
  co_return result;
}

Task<> Db::Impl::prefetch(Object& object, u64 offset, u64 bytes) {
  co_await usable();
  Operation operation(*this);
  // More than a quarter of the cache would only displace itself.
  const u64 end = offset + std::min(bytes, u64{slab_->page_count()} * kPageBytes / 4);
  for (u64 at = offset; at < end;) {
    const u64 window_end = std::min(end, (at / kReadWindowBytes + 1) * kReadWindowBytes);
    co_await fetch(object, at, window_end - at);
    co_await usable();
    at = window_end;
  }
  co_return {};
}

bool Db::Impl::erased_in_batches(ObjectId object, u64 chunk) const {
  if (open_.erased.covers(object, chunk)) return true;
  return std::ranges::any_of(
      log_.batches(), [&](const auto& batch) { return batch->erased.covers(object, chunk); });
}

bool Db::Impl::erased_after(ObjectId object, u64 chunk, u64 sealed_seq) {
  if (open_.erased.covers(object, chunk)) return true;
  return std::ranges::any_of(log_.batches(), [&](const auto& batch) {
    return batch->seq > sealed_seq && batch->erased.covers(object, chunk);
  });
}

// Resolves all of `asked`, and of `welcome` what the layers say on the way.
Task<> Db::Impl::resolve(ObjectId object, u64 chunk, u32 asked, u32 welcome,
                         std::vector<Found>& out) {
  u32 need = asked | welcome;
  if (erased_in_batches(object, chunk) && !MUTANT(erases_in_batches_ignored)) {
    out.push_back({.mask = need, .kind = RunKind::hole, .segment = {}, .frame = {}});
    co_return {};
  }
  const std::shared_ptr<const lsm::TableSet> tables = tables_;
  need = memtable_.find(object, chunk, need, out);
  if ((need & asked) == 0) co_return {};
  for (lsm::TableReader* const table : tables->holding(lsm::DataKey(object, chunk))) {
    const std::optional<u32> at_once = table->try_find(object, chunk, need, out);
    if (at_once) {
      need = *at_once;
    } else {
      const Result<u32> left = co_await as_result(table->find(object, chunk, need, out));
      if (!left) co_return std::unexpected(co_await judge_lookup(left.error()));
      need = *left;
    }
    if ((need & asked) == 0) co_return {};
  }
  out.push_back({.mask = need, .kind = RunKind::hole, .segment = {}, .frame = {}});
  co_return {};
}

Task<> Db::Impl::fetch(Object& object, u64 offset, u64 bytes) {
  const u64 first_page = offset / kPageBytes;
  const u64 end_page = (offset + bytes + kPageBytes - 1) / kPageBytes;
  std::deque<ChunkFill> fills;
  for (u64 chunk = first_page / kPagesPerChunk; chunk * kPagesPerChunk < end_page; ++chunk) {
    const u32 wanted = mask_between(chunk, first_page, end_page);
    Node* node = cache_.find(object, chunk);
    if (node != nullptr && (node->present & wanted) == wanted) continue;
    Node& filled = cache_.find_or_create(object, chunk);
    fills.emplace_back(cache_, filled, wanted & ~filled.present);
  }
  for (ChunkFill& fill : fills) {
    const u32 welcome = ~(fill.node->present | fill.asked);
    co_await resolve(object.id(), fill.node->chunk, fill.asked, welcome, fill.found);
  }

  // One flight per frame; those that nobody flies yet are ours to fetch.
  std::vector<std::shared_ptr<FrameFlight>> fresh;
  for (ChunkFill& fill : fills) {
    fill.flights.resize(fill.found.size());
    for (std::size_t i = 0; i < fill.found.size(); ++i) {
      const Found& found = fill.found[i];
      if (found.kind != RunKind::data || (found.mask & fill.asked) == 0) continue;
      std::shared_ptr<FrameFlight>& flight = flights_[{found.segment.value, found.frame.offset}];
      if (flight == nullptr) {
        flight =
            std::make_shared<FrameFlight>(runtime_.executor, *slab_, found.segment, found.frame);
        fresh.push_back(flight);
      }
      fill.flights[i] = flight;
    }
  }
  std::ranges::sort(fresh, {}, [](const auto& flight) {
    return std::pair(flight->segment.value, flight->frame.offset);
  });
  std::vector<std::shared_ptr<FrameFlight>> group;
  u32 group_pages = 0;
  for (auto& flight : fresh) {
    if (!group.empty()) {
      const FrameFlight& first = *group.front();
      const FrameFlight& last = *group.back();
      const u64 last_end = last.frame.offset + last.frame.stored_bytes;
      const u64 end = flight->frame.offset + flight->frame.stored_bytes;
      const bool joins = last.segment == flight->segment &&
                         flight->frame.offset <= last_end + kGetGapMax &&
                         end - first.frame.offset <= kGetBytesMax &&
                         group_pages + flight->frame.page_count <= kGetPagesMax;
      if (!joins) {
        gate_.spawn(fetch_group(std::move(group)));
        group = {};
        group_pages = 0;
      }
    }
    group_pages += flight->frame.page_count;
    group.push_back(std::move(flight));
  }
  if (!group.empty()) gate_.spawn(fetch_group(std::move(group)));

  std::optional<Error> error;
  for (ChunkFill& fill : fills) {
    for (const auto& flight : fill.flights) {
      if (flight == nullptr) continue;
      while (!flight->done) co_await flight->arrived.wait();
      if (flight->error) error = flight->error;
    }
  }
  if (error) co_return std::unexpected(*error);

  for (ChunkFill& fill : fills) {
    for (std::size_t i = 0; i < fill.found.size(); ++i) {
      const Found& found = fill.found[i];
      const FrameFlight* flight = fill.flights[i].get();
      if (found.kind == RunKind::data && flight == nullptr) continue;  // welcome, not fetched
      for (u32 left = found.mask; left != 0; left &= left - 1) {
        const u32 index = static_cast<u32>(std::countr_zero(left));
        if (!cache::PageCache::may_fill(fill.flight, index)) continue;
        PageIndex page = found.kind == RunKind::zero ? kZeroPage : kHolePage;
        if (flight != nullptr) {
          page = flight->pages[index - found.frame.first_page];
          slab_->reference(page);
        }
        cache_.set_page(*fill.node, index, page);
      }
    }
  }
  co_return {};
}

Result<format::Salt> Db::Impl::salt_of(Term term) const {
  const auto salt = salts_.find(term.value);
  if (salt == salts_.end()) return corrupt("a run points into an unknown term", term.value);
  return salt->second;
}

// Retries what may pass; a missing or short segment is damage: nothing here deletes segments.
Task<> Db::Impl::read_segment(lsm::SegmentId segment, u64 offset, MutableBytes out) {
  const std::string name = format::segment_name(segment);
  store::Backoff backoff(50ms, 5s, runtime_.random);
  bool warned = false;
  for (;;) {
    ++reads_from_store_;
    Result<> got = co_await as_result(store_.read(name, offset, out, store::Class::foreground));
    if (got) co_return {};
    const Error error = got.error();
    if (error.code() == Code::not_found || error.code() == Code::corrupt) {
      spdlog::error("read: object {} is {}, needed at offset {}", name,
                    error.code() == Code::not_found ? "missing" : "too short", offset);
      co_return corrupt("a segment is missing or too short", segment.value);
    }
    if (!warned) {
      spdlog::warn("read: cannot read {}: {} ({}); retrying", name, error.text(),
                   code_name(error.code()));
      warned = true;
    }
    co_await usable();
    co_await sleep_for(runtime_, backoff.next());
    co_await usable();
  }
}

Task<> Db::Impl::fetch_group(std::vector<std::shared_ptr<FrameFlight>> group) {
  const lsm::SegmentId segment = group.front()->segment;
  const u64 begin = group.front()->frame.offset;
  const lsm::FramePointer last = group.back()->frame;
  Buffer raw(last.offset + last.stored_bytes - begin);
  Result<> got = co_await as_result(read_segment(segment, begin, raw));

  u32 pages = 0;
  for (const auto& flight : group) pages += flight->frame.page_count;
  while (got && !cache_.make_room(pages)) {
    co_await room_.wait();
    got = usable();
  }
  const Result<format::Salt> salt = salt_of(lsm::term_of(segment));
  if (got && !salt) got = std::unexpected(salt.error());

  if (got) {
    for (const auto& flight : group) {
      for (u32 i = 0; i < flight->frame.page_count; ++i) {
        flight->pages.push_back(slab_->allocate());
      }
    }
    const std::string name = format::segment_name(segment);
    auto decode = [&group, &raw, &name, begin, slab = slab_.get(), keys = &keys_,
                   salt = *salt]() -> Result<> {
      format::ObjectCipher cipher(*keys, salt, name);
      alignas(64) thread_local std::byte plain[kFrameBytesMax];
      for (const auto& flight : group) {
        const lsm::FramePointer& frame = flight->frame;
        const Bytes sealed = raw.bytes().subspan(frame.offset - begin, frame.stored_bytes);
        const MutableBytes out(plain, u64{frame.page_count} * kPageBytes);
        TRY_VOID(format::open_frame(cipher, frame, sealed, out));
        for (u32 i = 0; i < frame.page_count; ++i) {
          std::memcpy(slab->data(flight->pages[i]), plain + u64{i} * kPageBytes, kPageBytes);
        }
      }
      return {};
    };
    if (group.size() == 1) {
      got = decode();  // a hand-off would cost more
    } else {
      got = co_await offload(runtime_.executor, Priority::urgent, std::move(decode));
    }
    if (!got) {
      spdlog::error("read: object {} is damaged between {} and {}: {}", name, begin,
                    begin + raw.size(), got.error().text());
    }
  }
  for (const auto& flight : group) {
    if (!got) {
      for (const PageIndex page : flight->pages) slab_->release(page);
      flight->pages.clear();
      flight->error = got.error();
    }
    flight->done = true;
    flights_.erase({flight->segment.value, flight->frame.offset});
    flight->arrived.wake_all();
  }
  co_return {};
}

// ---- meta

Task<std::optional<std::string>> Db::Impl::get_meta(std::string key) {
  co_await usable();
  Operation operation(*this);
  if (const auto open = open_.meta.find(key); open != open_.meta.end()) co_return open->second;
  for (const auto& batch : log_.batches() | std::views::reverse) {
    if (MUTANT(meta_skips_sealed)) break;
    const auto at = std::ranges::lower_bound(batch->meta, key, {}, &lsm::MetaEntry::key);
    if (at != batch->meta.end() && at->key == key) co_return at->value;
  }
  const std::shared_ptr<const lsm::TableSet> tables = tables_;
  if (const lsm::MetaEntry* entry = memtable_.find_meta(key)) co_return entry->value;
  for (lsm::TableReader* const table : tables->holding(lsm::meta_table_key(key))) {
    const Result<std::optional<lsm::MetaEntry>> entry = co_await as_result(table->find_meta(key));
    if (!entry) co_return std::unexpected(co_await judge_lookup(entry.error()));
    if (*entry) co_return (*entry)->value;
  }
  co_return std::optional<std::string>();
}

Task<std::vector<lsm::MetaEntry>> Db::Impl::scan_meta(std::string prefix) {
  co_await usable();
  Operation operation(*this);
  // Newest first; the first one to say something about a key decides.
  std::map<std::string, std::optional<std::string>> merged;
  const auto take = [&](const std::string& key, const std::optional<std::string>& value) {
    if (key.starts_with(prefix)) merged.insert({key, value});
  };
  const std::shared_ptr<const lsm::TableSet> tables = tables_;
  for (const auto& [key, value] : open_.meta) take(key, value);
  for (const auto& batch : log_.batches() | std::views::reverse) {
    for (const lsm::MetaEntry& entry : batch->meta) take(entry.key, entry.value);
  }
  for (const lsm::LayerRef& layer : memtable_.layers()) {
    for (const lsm::MetaEntry& entry : layer->meta) take(entry.key, entry.value);
  }
  for (const lsm::TableRef& table : tables->newest_first()) {
    std::vector<lsm::MetaEntry> entries;
    const Result<> scanned = co_await as_result(table->scan_meta(prefix, entries));
    if (!scanned) co_return std::unexpected(co_await judge_lookup(scanned.error()));
    for (const lsm::MetaEntry& entry : entries) take(entry.key, entry.value);
  }
  std::vector<lsm::MetaEntry> out;
  for (auto& [key, value] : merged) {
    if (value) out.push_back({key, std::move(value)});
  }
  co_return std::move(out);
}

}  // namespace zerofs
