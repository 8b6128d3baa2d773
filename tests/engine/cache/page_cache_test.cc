// Goal: what a fill may insert. Method: flights, mutations and fills in the orders that matter.
#include "engine/cache/page_cache.h"

#include <doctest/doctest.h>

namespace zerofs::cache {
namespace {

struct Site final : StaleJudge {
  bool erased_after(ObjectId, u64, u64) override { return false; }
  std::unique_ptr<PageSlab> slab = std::move(*PageSlab::create(64));
  PageCache cache{*slab, 64, *this};
  Object* object = cache.open_object({1});
  ~Site() override { cache.close_object(object); }
};

TEST_CASE("a mutation stops the fills that began before it, not those that begin after") {
  Site site;
  Node& node = site.cache.find_or_create(*site.object, 0);
  Flight older;
  PageCache::begin_flight(node, older);
  CHECK(PageCache::may_fill(older, 3));
  site.cache.drop_pages(node, 1u << 3);  // a discard
  Flight newer;
  PageCache::begin_flight(node, newer);
  CHECK_FALSE(PageCache::may_fill(older, 3));
  CHECK(PageCache::may_fill(older, 4));
  CHECK(PageCache::may_fill(newer, 3));

  site.cache.set_page(node, 3, kHolePage);
  CHECK_FALSE(PageCache::may_fill(newer, 3));  // it is present
  site.cache.drop_pages(node, 1u << 3);
  CHECK_FALSE(PageCache::may_fill(newer, 3));
  site.cache.end_flight(older);
  CHECK(site.cache.node_count() == 1);  // the other flight holds it
  site.cache.end_flight(newer);
  CHECK(site.cache.node_count() == 0);
}

}  // namespace
}  // namespace zerofs::cache
