#include "engine/cache/page_cache.h"

#include <sys/mman.h>

#include <bit>

#include "engine/base/mutant.h"

namespace zerofs::cache {

namespace {
constexpr u8 kNoQueue = 0;
constexpr u8 kSmallQueue = 1;
constexpr u8 kMainQueue = 2;

// Zeroed memory that is backed at first use.
template <class T>
T* map_array(u64 count) {
  void* memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  INVARIANT(memory != MAP_FAILED);
  return static_cast<T*>(memory);
}
}  // namespace

PageCache::PageCache(PageSlab& slab, u32 nodes_max, StaleJudge& judge)
    : slab_(slab), judge_(judge), nodes_max_(nodes_max + 1) {
  const u64 buckets = std::bit_ceil(u64{nodes_max_});
  bucket_mask_ = buckets - 1;
  nodes_ = map_array<Node>(nodes_max_);
  buckets_ = map_array<u32>(buckets);
  ghosts_ = map_array<u32>(buckets);
}

PageCache::~PageCache() {
  for (u32 index = 1; index < nodes_fresh_; ++index) {
    Node& node = nodes_[index];
    if (node.object == nullptr) continue;
    for (u32 i = 0; i < kPagesPerChunk; ++i) {
      if ((node.present >> i & 1) != 0 && is_memory(node.pages[i])) slab_.release(node.pages[i]);
    }
  }
  munmap(nodes_, u64{nodes_max_} * sizeof(Node));
  munmap(buckets_, (bucket_mask_ + 1) * sizeof(u32));
  munmap(ghosts_, (bucket_mask_ + 1) * sizeof(u32));
}

Object* PageCache::open_object(ObjectId id) {
  std::unique_ptr<Object>& slot = objects_[id.value];
  if (slot == nullptr) slot = std::make_unique<Object>(id);
  ++slot->handles_;
  return slot.get();
}

void PageCache::close_object(Object* object) {
  INVARIANT(object->handles_ != 0);
  --object->handles_;
  release_object_if_idle(object);
}

void PageCache::release_object_if_idle(Object* object) {
  if (object->handles_ == 0 && object->nodes_ == 0) objects_.erase(object->id_.value);
}

Node& PageCache::find_or_create(Object& object, u64 chunk) {
  if (Node* found = find(object, chunk)) return *found;
  if (free_node_ == kNoNode && nodes_fresh_ == nodes_max_) {
    // Every node is a page's worth of index; evicting pages frees nodes.
    while (free_node_ == kNoNode) {
      const bool evicted = evict_some();
      INVARIANT(evicted);  // nodes_max is larger than what can be dirty or in flight
    }
  }
  NodeIndex index = free_node_;
  if (index != kNoNode) {
    free_node_ = nodes_[index].hash_next;
  } else {
    index = nodes_fresh_++;
  }
  Node& node = nodes_[index];
  node = Node{};
  node.object = &object;
  node.chunk = chunk;
  node.erases_seen = object.erase_count_;
  u32& bucket = buckets_[bucket_of(object, chunk)];
  node.hash_next = bucket;
  bucket = index;
  ++object.nodes_;
  ++node_count_;
  return node;
}

void PageCache::free_node(Node& node) {
  Object* object = node.object;
  const NodeIndex index = index_of(node);
  NodeIndex* link = &buckets_[bucket_of(*object, node.chunk)];
  while (*link != index) link = &nodes_[*link].hash_next;
  *link = node.hash_next;
  node.object = nullptr;
  node.hash_next = free_node_;
  free_node_ = index;
  --node_count_;
  --object->nodes_;
  release_object_if_idle(object);
}

void PageCache::drop_pages(Node& node, u32 mask) {
  for (u32 left = node.present & mask; left != 0; left &= left - 1) {
    const PageIndex page = node.pages[std::countr_zero(left)];
    if (is_memory(page)) drop_memory(page);
  }
  node.present &= ~mask;
  node.dirty &= ~mask;
  node.open &= ~mask;
  node.touched &= ~mask;
  overtake(node, mask);
}

void PageCache::settle(Node& node) {
  if (node.dirty != 0 || node.flights != nullptr || node.listed) return;
  if (node.queue != kNoQueue) return;  // the hand will find it
  if (node.present == 0) {
    free_node(node);
    return;
  }
  const bool promoted =
      node.touched != 0 || ghost_contains(hash_of(*node.object, node.chunk));
  enqueue(node, promoted ? kMainQueue : kSmallQueue);
}

void PageCache::end_flight(Flight& flight) {
  Node& node = *flight.node;
  Flight** link = &node.flights;
  while (*link != &flight) {
    INVARIANT(*link != nullptr);
    link = &(*link)->next;
  }
  *link = flight.next;
  if (node.flights == nullptr) settle(node);
}

void PageCache::erase(Object& object, u64 first, u64 last) {
  if (object.nodes_ == 0) return;
  if (last - first < kEraseDirectMax) {
    for (u64 chunk = first; chunk <= last; ++chunk) {
      if (Node* node = find(object, chunk)) {
        drop_pages(*node, ~0u);
        settle(*node);
      }
    }
    return;
  }
  object.erases_[object.erase_count_ % kErasesRemembered] = {first, last};
  ++object.erase_count_;
}

void PageCache::catch_up(Node& node) {
  Object& object = *node.object;
  const u32 missed = object.erase_count_ - node.erases_seen;
  if (missed <= kErasesRemembered) {
    for (u32 i = node.erases_seen; i != object.erase_count_; ++i) {
      const Object::Erase& erase = object.erases_[i % kErasesRemembered];
      if (node.chunk < erase.first || node.chunk > erase.last) continue;
      drop_pages(node, ~0u);
      break;
    }
  } else if (MUTANT(old_erases_forgotten)) {
    // It keeps what it has.
  } else if (judge_.erased_after(object.id_, node.chunk, node.sealed_seq)) {
    drop_pages(node, ~node.open);
  } else {
    drop_pages(node, ~node.dirty);
  }
  node.erases_seen = object.erase_count_;
}

// For a node that somebody is about to use: it is not freed, but the hand must find it.
void PageCache::refresh(Node& node) {
  catch_up(node);
  if (node.queue == kNoQueue && node.dirty == 0 && node.flights == nullptr && !node.listed) {
    enqueue(node, kSmallQueue);
  }
}

bool PageCache::make_room(u32 count) {
  while (slab_.available() < count) {
    if (!evict_some()) return false;
  }
  return true;
}

// One step of the hand; false when nothing can be evicted.
bool PageCache::evict_some() {
  u32 looked = 0;
  const u32 look_max = 3 * (small_.count + main_.count) + 1;
  while (small_.count + main_.count != 0 && looked++ < look_max) {
    const u32 total = small_.count + main_.count;
    const u8 queue = small_.count * 10 >= total || main_.count == 0 ? kSmallQueue : kMainQueue;
    Node& node = *dequeue(queue);
    if (node.erases_seen != node.object->erase_count_) catch_up(node);
    const bool dirty = node.dirty != 0 && !(MUTANT(evict_dirty) && node.open == 0);
    if (dirty || node.flights != nullptr || node.listed) continue;  // settles later
    const u32 keep = node.touched;
    const u32 present_before = node.present;
    if (keep == 0) {
      ghost_insert(hash_of(*node.object, node.chunk));
      drop_pages(node, ~0u);
      free_node(node);
      return true;
    }
    drop_pages(node, ~keep);
    node.touched = 0;
    enqueue(node, kMainQueue);
    if (present_before != node.present) return true;
  }
  return false;
}

void PageCache::enqueue(Node& node, u8 queue) {
  Queue& q = queue == kSmallQueue ? small_ : main_;
  const NodeIndex index = index_of(node);
  node.queue = queue;
  node.queue_next = kNoNode;
  if (q.tail != kNoNode) {
    nodes_[q.tail].queue_next = index;
  } else {
    q.head = index;
  }
  q.tail = index;
  ++q.count;
}

Node* PageCache::dequeue(u8 queue) {
  Queue& q = queue == kSmallQueue ? small_ : main_;
  Node& node = nodes_[q.head];
  q.head = node.queue_next;
  if (q.head == kNoNode) q.tail = kNoNode;
  --q.count;
  node.queue = kNoQueue;
  return &node;
}

// A ghost is a 32-bit fingerprint in a direct-mapped table: a newer one displaces an older one,
// which is the forgetting that a ghost queue needs.
bool PageCache::ghost_contains(u64 hash) const {
  return ghosts_[hash & bucket_mask_] == static_cast<u32>(hash >> 32 | 1);
}
void PageCache::ghost_insert(u64 hash) {
  ghosts_[hash & bucket_mask_] = static_cast<u32>(hash >> 32 | 1);
}

}  // namespace zerofs::cache
