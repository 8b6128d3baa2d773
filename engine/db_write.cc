// Writes: whole pages enter the cache and the open batch in one step; that is the acknowledgement.
//
// Whatever may have to wait (room under the dirty limit, the old content of a page that is written
// in part) is settled first; the mutation itself never suspends, so a batch boundary never falls
// inside it unless the write is larger than a step (kTryWriteBytesMax).
#include <bit>

#include "engine/base/mutant.h"
#include "engine/db_impl.h"

namespace zerofs {

using cache::kHolePage;
using cache::kZeroPage;
using cache::Node;
using cache::PageIndex;

namespace {
u32 mask_of(u32 first, u32 count) {
  return (count == kPagesPerChunk ? ~0u : (1u << count) - 1) << first;
}
}  // namespace

u64 Db::Impl::dirty_pages_max() const {
  // While somebody waits for flushes, the limit keeps the wait short: two seconds of uploading.
  // Without flushes it is the share of memory.
  u64 limit = dirty_share_pages_;
  const double rate = log_.upload_bytes_per_second();
  const bool flushes_matter =
      durable_.has_waiters() || (waited_before_ && runtime_.clock.now() - last_flush_wait_ < 10s);
  if (rate > 0 && flushes_matter) {
    const u64 pages = static_cast<u64>(2 * rate) / kPageBytes;
    limit = std::min(limit, std::max<u64>(pages, 2 * batch_pages_max_));
  }
  // Where compaction falls behind writers slow down, the more the fuller level 0 is.
  const u64 level0 = compaction_fails_ ? 0 : tables_->level0_size();
  if (level0 > lsm::kLevel0Slowdown) {
    const u64 left = lsm::kLevel0Stop - std::min<u64>(level0, lsm::kLevel0Stop) + 1;
    const u64 part = limit * left / (lsm::kLevel0Stop - lsm::kLevel0Slowdown + 1);
    limit = std::min(limit, std::max<u64>(part, 2 * batch_pages_max_));
  }
  return limit;
}

bool Db::Impl::has_room(u32 pages) {
  const u64 wanted = dirty_pages() + pages;
  const bool may_be_much =
      wanted > dirty_share_pages_ / 2 || tables_->level0_size() > lsm::kLevel0Slowdown;
  if (may_be_much && wanted > dirty_pages_max() && !MUTANT(dirty_limit_ignored)) {
    return false;
  }
  if (sealed_chunks_ >= slab_->page_count() + kSealedChunksExtra) return false;
  if (memtable_.memory_bytes() >= memtable_layer_bytes_max_) return false;
  if (slab_->wants_population() && !populating_ && !gate_.closed()) gate_.spawn(populate_slab());
  return slab_->available() >= pages || cache_.make_room(pages);
}

Task<> Db::Impl::populate_slab() {
  populating_ = true;
  while (slab_->wants_population()) {
    auto populate = [memory = slab_->next_to_populate()] { cache::PageSlab::populate(memory); };
    co_await offload(runtime_.executor, Priority::urgent, std::move(populate));
  }
  populating_ = false;
  co_return {};
}

Task<> Db::Impl::wait_for_room(u32 pages) {
  ++writers_waiting_;
  Result<> state = usable();
  while (state && !has_room(pages)) {
    if (!open_.empty() && log_.idle()) seal_open(false);
    co_await room_.wait();
    state = usable();
  }
  --writers_waiting_;
  co_await state;
  co_return {};
}

// ---- the open batch

void Db::Impl::note_open() {
  if (!open_.empty()) return;
  open_.opened = runtime_.clock.now();
  runtime_.executor.arm(age_timer_, open_.opened + options_.batch_age);
}

void Db::Impl::mark_open(Node& node, u32 index, bool was_open_memory) {
  const u32 bit = 1u << index;
  const bool memory = cache::is_memory(node.pages[index]);
  if (memory != was_open_memory) open_.memory_pages += memory ? 1 : u32(-1);
  node.dirty |= bit;
  node.open |= bit;
  if (!node.listed) {
    note_open();
    node.listed = true;
    open_.nodes.push_back(cache_.index_of(node));
  }
}

// Gives the page to the node; takes over the reference.
void Db::Impl::put_page(Node& node, u32 index, PageIndex page) {
  const bool was = (node.open >> index & 1) != 0 && cache::is_memory(node.pages[index]);
  cache_.overtake(node, 1u << index);
  cache_.set_page(node, index, page);
  mark_open(node, index, was);
}

// Writes part of a page that is present, or all of any page.
void Db::Impl::put_bytes(Node& node, u32 index, u32 begin, Bytes data) {
  const u32 bit = 1u << index;
  const bool present = (node.present & bit) != 0;
  const PageIndex old = present ? node.pages[index] : kHolePage;
  if (present && cache::is_memory(old) &&
      (!slab_->is_shared(old) || MUTANT(write_shared_in_place))) {
    // Nobody else refers to it: no reply, no seal, no job.
    std::memcpy(slab_->data(old) + begin, data.data(), data.size());
    cache_.overtake(node, bit);
    mark_open(node, index, (node.open & bit) != 0);
    return;
  }
  const PageIndex page = slab_->allocate();
  INVARIANT(cache::is_memory(page));  // has_room made sure
  std::byte* to = slab_->data(page);
  if (data.size() != kPageBytes) {
    INVARIANT(present || MUTANT(partial_write_onto_zeroes));
    if (cache::is_memory(old)) {
      std::memcpy(to, slab_->data(old), kPageBytes);
    } else {
      std::memset(to, 0, kPageBytes);
    }
  }
  std::memcpy(to + begin, data.data(), data.size());
  put_page(node, index, page);
}

void Db::Impl::drop_node_pages(Node& node, u32 mask) {
  for (u32 left = node.open & node.present & mask; left != 0; left &= left - 1) {
    if (cache::is_memory(node.pages[std::countr_zero(left)])) --open_.memory_pages;
  }
  cache_.drop_pages(node, mask);
}

// ---- writes

// Whether the pages that [offset, offset + bytes) covers only in part are present.
bool Db::Impl::edge_present(Object& object, u64 offset, u64 bytes) {
  const auto present = [&](u64 page) {
    Node* node = cache_.find(object, page / kPagesPerChunk);
    return node != nullptr && (node->present >> (page % kPagesPerChunk) & 1) != 0;
  };
  const u64 end = offset + bytes;
  if (offset % kPageBytes != 0 && !present(offset / kPageBytes)) return false;
  return end % kPageBytes == 0 || present(end / kPageBytes);
}

bool Db::Impl::write_now(Object& object, u64 offset, Bytes data) {
  const u64 end = offset + data.size();
  const u64 first_page = offset / kPageBytes;
  const u64 end_page = (end + kPageBytes - 1) / kPageBytes;
  if (!has_room(static_cast<u32>(end_page - first_page))) return false;
  if ((offset | data.size()) % kPageBytes != 0 && !edge_present(object, offset, data.size()) &&
      !MUTANT(partial_write_onto_zeroes)) {
    return false;
  }

  Node* node = nullptr;
  u64 at = offset;
  while (at < end) {
    const u64 page = at / kPageBytes;
    const u32 begin = at % kPageBytes;
    const u32 count = static_cast<u32>(std::min<u64>(kPageBytes - begin, end - at));
    const u64 chunk = page / kPagesPerChunk;
    if (node == nullptr || node->chunk != chunk) node = &cache_.find_or_create(object, chunk);
    put_bytes(*node, page % kPagesPerChunk, begin, data.subspan(at - offset, count));
    at += count;
  }
  user_bytes_written_ += data.size();
  seal_if_full();
  return true;
}

bool Db::Impl::try_write(Object& object, u64 offset, Bytes data) {
  if (data.empty()) return true;
  if (data.size() > kTryWriteBytesMax || writers_waiting_ != 0 || closing_ || fenced_) return false;
  return write_now(object, offset, data);
}

Task<> Db::Impl::fetch_edges(Object& object, u64 offset, u64 bytes) {
  const u64 end = offset + bytes;
  if (offset % kPageBytes != 0) co_await fetch(object, offset, 1);
  if (end % kPageBytes != 0) co_await fetch(object, end - 1, 1);
  co_return {};
}

Task<> Db::Impl::write(Object& object, u64 offset, Bytes data) {
  co_await usable();
  Operation operation(*this);
  while (!data.empty()) {
    const u64 step = std::min<u64>(data.size(), kTryWriteBytesMax - offset % kPageBytes);
    const u32 pages = static_cast<u32>((offset % kPageBytes + step + kPageBytes - 1) / kPageBytes);
    while (!write_now(object, offset, data.first(step))) {
      co_await wait_for_room(pages);
      if (!edge_present(object, offset, step)) co_await fetch_edges(object, offset, step);
    }
    offset += step;
    data = data.subspan(step);
  }
  co_return {};
}

bool Db::Impl::try_take_pages(u32 count, std::vector<PageIndex>& out) {
  if (writers_waiting_ != 0 || closing_ || fenced_ || !has_room(count)) return false;
  for (u32 i = 0; i < count; ++i) out.push_back(slab_->allocate());
  taken_pages_ += count;
  return true;
}

Task<> Db::Impl::take_pages(u32 count, std::vector<PageIndex>& out) {
  co_await usable();
  Operation operation(*this);
  co_await wait_for_room(count);
  for (u32 i = 0; i < count; ++i) out.push_back(slab_->allocate());
  taken_pages_ += count;
  co_return {};
}

void Db::Impl::write_pages(Object& object, u64 first_page, std::span<const PageIndex> pages) {
  INVARIANT(taken_pages_ >= pages.size());
  taken_pages_ -= pages.size();
  Node* node = nullptr;
  for (u64 i = 0; i < pages.size(); ++i) {
    const u64 page = first_page + i;
    const u64 chunk = page / kPagesPerChunk;
    if (node == nullptr || node->chunk != chunk) node = &cache_.find_or_create(object, chunk);
    put_page(*node, page % kPagesPerChunk, pages[i]);
  }
  user_bytes_written_ += pages.size() * kPageBytes;
  seal_if_full();
}

void Db::Impl::return_pages(std::span<const PageIndex> pages) {
  INVARIANT(taken_pages_ >= pages.size());
  taken_pages_ -= pages.size();
  for (const PageIndex page : pages) slab_->release(page);
  if (room_.has_waiters()) room_.wake_all();
}

// ---- discards and zeroes

void Db::Impl::set_empty_pages(Object& object, u64 chunk, u32 mask, lsm::RunKind kind) {
  Node& node = cache_.find_or_create(object, chunk);
  const PageIndex page = kind == lsm::RunKind::zero ? kZeroPage : kHolePage;
  for (u32 left = mask; left != 0; left &= left - 1) {
    put_page(node, static_cast<u32>(std::countr_zero(left)), page);
  }
}

void Db::Impl::erase_chunks(Object& object, u64 first, u64 last, bool whole_object) {
  note_open();
  if (last - first < cache::kEraseDirectMax) {
    for (u64 chunk = first; chunk <= last; ++chunk) {
      Node* node = cache_.find(object, chunk);
      if (node == nullptr) continue;
      drop_node_pages(*node, MUTANT(erase_keeps_open_pages) ? ~node->open : ~0u);
      cache_.settle(*node);
    }
  } else {
    // What the open batch holds under the range goes now; the rest of the cache learns of it later.
    for (const auto index : open_.nodes) {
      Node& node = cache_.node(index);
      if (node.object != &object || node.chunk < first || node.chunk > last) continue;
      drop_node_pages(node, ~0u);
    }
    cache_.erase(object, first, last);
  }
  open_.erased.add({object.id(), first, last, whole_object});
}

Task<> Db::Impl::set_empty(Object& object, u64 offset, u64 bytes, lsm::RunKind kind,
                           bool zero_partial) {
  co_await usable();
  Operation operation(*this);
  const u64 end = offset + bytes;
  const u64 page_begin = (offset + kPageBytes - 1) / kPageBytes;
  const u64 page_end = end / kPageBytes;

  // Parts of pages: left alone by a discard, overwritten with zeroes otherwise.
  if (zero_partial) {
    const u64 head_end = std::min(end, page_begin * kPageBytes);
    if (offset < head_end) {
      co_await write(object, offset, {cache::zero_chunk(), head_end - offset});
    }
    const u64 tail_begin = std::max(head_end, page_end * kPageBytes);
    if (page_begin <= page_end && tail_begin < end) {
      co_await write(object, tail_begin, {cache::zero_chunk(), end - tail_begin});
    }
  }

  for (u64 page = page_begin; page < page_end;) {
    co_await wait_for_room(0);
    const u64 chunk = page / kPagesPerChunk;
    const u32 first = page % kPagesPerChunk;
    const u64 whole_chunks = first == 0 ? (page_end - page) / kPagesPerChunk : 0;
    if (kind == lsm::RunKind::hole && whole_chunks != 0) {
      erase_chunks(object, chunk, chunk + whole_chunks - 1, false);
      page += whole_chunks * kPagesPerChunk;
    } else {
      const u32 count = static_cast<u32>(std::min<u64>(kPagesPerChunk - first, page_end - page));
      set_empty_pages(object, chunk, mask_of(first, count), kind);
      page += count;
    }
    seal_if_full();
  }
  co_return {};
}

// ---- transactions

void Db::Impl::truncate_now(Object& object, u64 size) {
  u64 page = size / kPageBytes;
  const u32 begin = size % kPageBytes;
  if (begin != 0) {
    Node* node = cache_.find(object, page / kPagesPerChunk);
    INVARIANT(node != nullptr && (node->present >> (page % kPagesPerChunk) & 1) != 0);
    if (cache::is_memory(node->pages[page % kPagesPerChunk])) {
      put_bytes(*node, page % kPagesPerChunk, begin, {cache::zero_chunk(), kPageBytes - begin});
    }
    ++page;
  }
  const u32 first = page % kPagesPerChunk;
  u64 chunk = page / kPagesPerChunk;
  if (first != 0) {
    set_empty_pages(object, chunk, mask_of(first, kPagesPerChunk - first), lsm::RunKind::hole);
    ++chunk;
  }
  erase_chunks(object, chunk, kChunkIndexMax, false);
}

Task<> Db::Impl::commit(Transaction transaction) {
  co_await usable();
  Operation operation(*this);
  const auto edge_missing = [&](const Transaction::Truncate& cut) {
    return cut.size % kPageBytes != 0 && !edge_present(*cut.object, cut.size, 0);
  };
  for (bool ready = false; !ready;) {
    co_await wait_for_room(static_cast<u32>(transaction.truncates.size()));
    ready = true;
    for (const auto& cut : transaction.truncates) {
      if (!edge_missing(cut)) continue;
      co_await fetch(*cut.object, cut.size, 1);
      ready = false;
    }
  }
  // From here on one step: everything enters the open batch.
  note_open();
  for (const auto& cut : transaction.truncates) truncate_now(*cut.object, cut.size);
  if (MUTANT(torn_transaction)) seal_open(false);
  for (const ObjectId id : transaction.deleted_objects) {
    Object* object = cache_.open_object(id);
    erase_chunks(*object, 0, kChunkIndexMax, true);
    cache_.close_object(object);
  }
  for (lsm::MetaEntry& entry : transaction.meta) {
    open_.meta_bytes += entry.key.size() + (entry.value ? entry.value->size() : 0);
    open_.meta.insert_or_assign(std::move(entry.key), std::move(entry.value));
  }
  seal_if_full();
  co_return {};
}

// ---- sealing

void Db::Impl::seal_if_full() {
  if (open_.memory_pages >= batch_pages_max_ || open_.nodes.size() >= log::kBatchChunksMax ||
      open_.erased.size() >= log::kBatchErasesMax || open_.meta_bytes >= log::kBatchMetaBytesMax) {
    seal_open(false);
  }
}

void Db::Impl::seal_open(bool urgent) {
  if (open_.empty() || fenced_ || abandoned_) return;
  runtime_.executor.disarm(age_timer_);
  auto batch = std::make_unique<log::SealedBatch>();
  batch->seq = open_.seq;
  batch->urgent = urgent;
  batch->items.reserve(open_.nodes.size());
  batch->pages.reserve(open_.memory_pages);
  for (const auto index : open_.nodes) {
    Node& node = cache_.node(index);
    node.listed = false;
    if (node.open == 0) {
      cache_.settle(node);  // an erase emptied it
      continue;
    }
    log::SealedBatch::Item item{.object = node.object->id(),
                                .chunk = node.chunk,
                                .node = index,
                                .first_page = static_cast<u32>(batch->pages.size())};
    for (u32 left = node.open; left != 0; left &= left - 1) {
      const u32 bit = left & -left;
      const PageIndex page = node.pages[std::countr_zero(left)];
      if (cache::is_memory(page)) {
        item.data |= bit;
        slab_->reference(page);
        batch->pages.push_back(page);
      } else if (page == kZeroPage) {
        item.zero |= bit;
      } else {
        item.hole |= bit;
      }
    }
    node.open = 0;
    node.sealed_seq = batch->seq;
    batch->items.push_back(item);
  }
  INVARIANT(batch->pages.size() == open_.memory_pages);
  batch->erased = std::move(open_.erased);
  batch->meta.reserve(open_.meta.size());
  for (auto& [key, value] : open_.meta) batch->meta.push_back({key, std::move(value)});
  sealed_pages_ += batch->pages.size();
  sealed_chunks_ += batch->items.size();
  const u64 next = open_.seq + 1;
  open_ = log::OpenBatch{};
  open_.seq = next;
  last_seal_ = runtime_.clock.now();
  log_.submit(std::move(batch));
}

// The log's durable prefix passed the batch: its layer takes its place in the read view and its
// pages become clean, in one step.
void Db::Impl::batch_durable(log::SealedBatch& batch) {
  memtable_.push(batch.layer);
  ++memtable_objects_;
  memtable_data_bytes_ += batch.object_bytes;
  for (const auto& item : batch.items) {
    Node& node = cache_.node(item.node);
    // The node may have been given up and reused since (only after an erase dropped these pages).
    if (node.object == nullptr || node.object->id() != item.object || node.chunk != item.chunk) {
      continue;
    }
    const u32 sealed = node.dirty & ~node.open;
    u32 clean = 0;
    u32 next_page = item.first_page;
    for (u32 left = item.data; left != 0; left &= left - 1) {
      // A page rewritten since has another index: this one is still held by the batch.
      const u32 index = static_cast<u32>(std::countr_zero(left));
      const PageIndex page = batch.pages[next_page++];
      const bool same = node.pages[index] == page || MUTANT(clean_by_older_batch);
      if ((sealed >> index & 1) != 0 && same) clean |= 1u << index;
    }
    if (node.sealed_seq == batch.seq) {
      // Zeroes have no identity, but no later sealed batch knows this node: they are this batch's
      // or an older one's.
      for (u32 left = sealed & ~clean; left != 0; left &= left - 1) {
        const u32 index = static_cast<u32>(std::countr_zero(left));
        if (!cache::is_memory(node.pages[index])) clean |= 1u << index;
      }
    }
    node.dirty &= ~clean;
    if (node.dirty == 0) cache_.settle(node);
  }
  for (const PageIndex page : batch.pages) slab_->release(page);
  sealed_pages_ -= batch.pages.size();
  sealed_chunks_ -= batch.items.size();
  durable_.wake_all();
  room_.wake_all();
  seal_wake_.wake_all();
  if (memtable_due()) memtable_wake_.wake_all();
}

bool Db::Impl::is_pressed() {
  return writers_waiting_ != 0 || dirty_pages() > dirty_share_pages_ / 2;
}

format::Compression Db::Impl::compression_now() {
  const u64 fill = dirty_pages() * 100 / std::max<u64>(dirty_share_pages_, 1);
  if (fill < 25) return {.level = 1};
  if (fill < 50) return {.level = -1};
  if (fill < 75) return {.level = -5};
  return {.stored = true};
}

}  // namespace zerofs
