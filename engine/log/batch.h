// Batches: what one log object will hold. The open batch's pages live in the page cache (nodes
// with `open` bits); sealing turns them into a list that owns its pages, which is then encoded on a
// worker and uploaded.
#pragma once

#include <map>

#include "engine/base/runtime.h"
#include "engine/cache/page_cache.h"
#include "engine/log/erased_set.h"

namespace zerofs::log {

// W: log objects in flight at most, of any writer of this format. Recovery relies on it: an object
// this far above the end of a log proves that something below it was acknowledged.
constexpr u32 kUploadsMax = 8;
// What goes into a batch before it must be sealed.
constexpr u32 kBatchChunksMax = 4096;
constexpr u32 kBatchErasesMax = 4096;
constexpr u64 kBatchMetaBytesMax = 4 * kMiB;

struct OpenBatch {
  u64 seq = 0;
  std::vector<cache::PageCache::NodeIndex> nodes;  // each `listed`
  u32 memory_pages = 0;                            // open pages that are slab pages
  ErasedSet erased;
  std::map<std::string, std::optional<std::string>, std::less<>> meta;
  u64 meta_bytes = 0;
  Instant opened{};

  bool empty() const { return nodes.empty() && erased.empty() && meta.empty(); }
};

struct SealedBatch {
  // One chunk: which of its pages are data, zero or holes. The data pages are
  // pages[first_page ...], in the order of the mask's bits.
  struct Item {
    ObjectId object;
    u64 chunk = 0;
    cache::PageCache::NodeIndex node = 0;
    u32 data = 0;
    u32 zero = 0;
    u32 hole = 0;
    u32 first_page = 0;
  };

  u64 seq = 0;
  std::vector<Item> items;                // in no order; unchanged from here on
  std::vector<cache::PageIndex> pages;    // one reference each
  ErasedSet erased;
  std::vector<lsm::MetaEntry> meta;       // sorted; readable while the seal runs
  bool urgent = false;                    // a flush waits for it

  // Filled in by the seal.
  Buffer object;
  lsm::LayerRef layer;
  u64 object_bytes = 0;  // stays when `object` was freed
  bool uploaded = false;
};

}  // namespace zerofs::log
