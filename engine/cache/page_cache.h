// The page cache: what RAM knows of every object, clean and dirty. It is also the index of the open
// batch: a page that no log object holds yet exists only here.
//
// A node stands for one chunk. Per page it has four bits and a slab index:
//   present   the index is meaningful: a slab page, or "reads as zeroes" (kZeroPage, kHolePage)
//   dirty     newer than everything durable; must not be evicted
//   open      dirty and in the open batch (not sealed yet)
//   touched   read since the eviction hand passed
// A dirty page that is not open belongs to a sealed batch, which holds a reference of its own.
//
// Invariant that the read path lives on: the newest version of a page that an *entry* of a batch
// not yet durable holds is present here, unless a newer erase covers it. So a page that is not
// present resolves through the erased ranges of those batches and then the durable layers.
//
// Fills: who looks a page up in the layers takes a flight on its node. A mutation of a node marks
// the pages `overtaken` in each of its flights; a fill never inserts a page that was overtaken in its
// own flight. (So a fetch that a write or discard overtook cannot bring the old bytes back, while one
// that began after it is not held up by the older.)
//
// Range erases over more than kEraseDirectMax chunks do not visit nodes. The object remembers its
// last kErasesRemembered of them; a node compares itself with those that it has not seen at its
// next use. A node that missed more drops what is clean and asks about the rest (StaleJudge).
//
// Eviction: S3-FIFO (Yang et al., SOSP '23) over nodes, page-wise inside them. Nodes with dirty
// pages or flights are in no queue or skipped; they join when the last dirty page became clean.
#pragma once

#include <unordered_map>
#include <vector>

#include "engine/base/mutant.h"
#include "engine/cache/page_slab.h"
#include "engine/cache/streams.h"

namespace zerofs::cache {

constexpr u64 kEraseDirectMax = 1024;
constexpr u32 kErasesRemembered = 64;

// A handle on an object: identity, its readers, its recent range erases. Owned by PageCache.
class Object {
 public:
  explicit Object(ObjectId id) : id_(id) {}
  ObjectId id() const { return id_; }
  Streams& streams() { return streams_; }

 private:
  friend class PageCache;
  struct Erase {
    u64 first;
    u64 last;
  };
  ObjectId id_;
  u32 handles_ = 0;  // open_object minus close_object
  u32 nodes_ = 0;
  u32 erase_count_ = 0;
  Erase erases_[kErasesRemembered];
  Streams streams_;
};

struct Node;

// Held by whoever fills a node, from before its lookup until it has inserted what it found. Neither
// moves nor copies: the node's list refers to it.
struct Flight {
  Flight() = default;
  Flight(const Flight&) = delete;
  Node* node = nullptr;
  Flight* next = nullptr;
  u32 overtaken = 0;  // pages mutated since it began
};

struct Node {
  Object* object = nullptr;
  u64 chunk = 0;
  u32 present = 0;
  u32 dirty = 0;
  u32 open = 0;
  u32 touched = 0;
  u32 erases_seen = 0;
  Flight* flights = nullptr;
  u64 sealed_seq = 0;  // the last sealed batch that holds pages of this node
  u32 hash_next = 0;   // node indexes; 0 is none
  u32 queue_next = 0;
  u8 queue = 0;        // 0 none, 1 small, 2 main
  bool listed = false;  // in the open batch's list of nodes
  PageIndex pages[kPagesPerChunk];
};

// Answers, for a node that missed too many range erases, whether the chunk was erased in a batch
// later than `sealed_seq`, the open one included. (Pages of the open batch are never in doubt: an
// erase that enters it drops what it covers there.)
class StaleJudge {
 public:
  virtual ~StaleJudge() = default;
  virtual bool erased_after(ObjectId object, u64 chunk, u64 sealed_seq) = 0;
};

class PageCache {
 public:
  using NodeIndex = u32;
  static constexpr NodeIndex kNoNode = 0;

  PageCache(PageSlab& slab, u32 nodes_max, StaleJudge& judge);
  ~PageCache();
  PageCache(const PageCache&) = delete;

  // ---- objects
  Object* open_object(ObjectId id);
  void close_object(Object* object);

  // ---- lookup
  // The node of a chunk, up to date with range erases, or null.
  Node* find(Object& object, u64 chunk) {
    NodeIndex index = buckets_[bucket_of(object, chunk)];
    while (index != kNoNode) {
      Node& node = nodes_[index];
      if (node.chunk == chunk && node.object == &object) {
        if (node.erases_seen != object.erase_count_) [[unlikely]] refresh(node);
        return &node;
      }
      index = node.hash_next;
    }
    return nullptr;
  }
  // Three hints, each for what the one before has brought into the processor's cache: the bucket,
  // the node, the reference count of the page.
  void prefetch_bucket(const Object& object, u64 chunk) const {
    __builtin_prefetch(&buckets_[bucket_of(object, chunk)]);
  }
  void prefetch_node(const Object& object, u64 chunk, u32 page) const {
    const Node& node = nodes_[buckets_[bucket_of(object, chunk)]];
    __builtin_prefetch(&node);
    __builtin_prefetch(&node.pages[page]);
  }
  void prefetch_page(const Object& object, u64 chunk, u32 page) const {
    const Node& node = nodes_[buckets_[bucket_of(object, chunk)]];
    if ((node.present >> page & 1) != 0 && is_memory(node.pages[page])) {
      slab_.prefetch(node.pages[page]);
    }
  }
  Node& find_or_create(Object& object, u64 chunk);
  Node& node(NodeIndex index) { return nodes_[index]; }
  NodeIndex index_of(const Node& node) const { return static_cast<NodeIndex>(&node - nodes_); }

  // ---- pages
  // Makes room: evicts clean pages until `count` slab pages can be allocated. False when what is
  // left is dirty or pinned.
  bool make_room(u32 count);
  // Replaces the page, takes over one reference to `page`, which may be kZeroPage or kHolePage.
  void set_page(Node& node, u32 index, PageIndex page) {
    const u32 bit = 1u << index;
    if ((node.present & bit) != 0 && is_memory(node.pages[index])) drop_memory(node.pages[index]);
    if (is_memory(page)) ++memory_pages_;
    node.pages[index] = page;
    node.present |= bit;
  }
  // A mutation of these pages is about to be applied: flights must not fill them.
  static void overtake(Node& node, u32 mask) {
    for (Flight* flight = node.flights; flight != nullptr; flight = flight->next) {
      flight->overtaken |= mask;
    }
  }
  // Forgets pages, whatever their state.
  void drop_pages(Node& node, u32 mask);
  // After bits changed: puts the node in a queue, or frees it when nothing needs it any more.
  void settle(Node& node);

  // ---- fills
  static void begin_flight(Node& node, Flight& flight) {
    flight.node = &node;
    flight.next = std::exchange(node.flights, &flight);
  }
  void end_flight(Flight& flight);
  // Whether a fill may insert the page.
  static bool may_fill(const Flight& flight, u32 index) {
    if (MUTANT(fill_although_overtaken)) return (flight.node->dirty >> index & 1) == 0;
    return ((flight.node->present | flight.overtaken) >> index & 1) == 0;
  }

  // ---- erases
  // Chunks first..last read as holes from now on. Nodes in the open batch must have been dropped by
  // the caller (drop_pages); all others are handled here, now or lazily.
  void erase(Object& object, u64 first, u64 last);

  u32 memory_pages() const { return memory_pages_; }  // slab pages that nodes refer to
  u32 node_count() const { return node_count_; }

 private:
  struct Queue {
    NodeIndex head = kNoNode;
    NodeIndex tail = kNoNode;
    u32 count = 0;
  };
  u64 hash_of(const Object& object, u64 chunk) const {
    u64 h = (object.id_.value * 0x9e3779b97f4a7c15ull) ^ chunk;
    h *= 0xbf58476d1ce4e5b9ull;
    return h ^ h >> 32;
  }
  // Sixteen neighbours share a cache line of buckets.
  u64 bucket_of(const Object& object, u64 chunk) const {
    return (hash_of(object, chunk / 16) * 16 + chunk % 16) & bucket_mask_;
  }
  void catch_up(Node& node);
  void refresh(Node& node);
  void drop_memory(PageIndex page) {
    slab_.release(page);
    --memory_pages_;
  }
  bool evict_some();
  void enqueue(Node& node, u8 queue);
  Node* dequeue(u8 queue);
  void free_node(Node& node);
  void release_object_if_idle(Object* object);
  bool ghost_contains(u64 hash) const;
  void ghost_insert(u64 hash);

  PageSlab& slab_;
  StaleJudge& judge_;
  Node* nodes_ = nullptr;  // one mapping, index 0 unused
  u32* buckets_ = nullptr;
  u64 bucket_mask_ = 0;
  u32 nodes_max_ = 0;
  u32 nodes_fresh_ = 1;
  NodeIndex free_node_ = kNoNode;
  u32 node_count_ = 0;
  u32 memory_pages_ = 0;
  Queue small_;
  Queue main_;
  u32* ghosts_ = nullptr;  // fingerprints, direct-mapped
  std::unordered_map<u64, std::unique_ptr<Object>> objects_;
};

}  // namespace zerofs::cache
