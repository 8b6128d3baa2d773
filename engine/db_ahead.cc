// Reading ahead of sequential readers. What a stream is owed (cache/streams.h) is fetched in steps,
// several at once, which fill the cache as demand reads do; a reader that comes to pages that are
// on their way waits for that flight.
#include <algorithm>

#include "engine/db_impl.h"

namespace zerofs {

namespace {
// Ahead of one stream: round trip times bandwidth of a fast link, several times over.
constexpr u64 kAheadMax = 32 * kMiB;
}  // namespace

// Unread pages would only displace one another where the cache is small.
u64 Db::Impl::ahead_max() const {
  return std::min(kAheadMax, reading_pages_max_ * kPageBytes / 4);
}

void Db::Impl::read_ahead(Object& object, cache::Streams::Range range) {
  while (range.bytes != 0) {
    const u64 bytes = std::min(range.bytes, cache::kAheadStepMax);
    const u64 pages = bytes / kPageBytes + 2;
    // All streams together; what is refused here, the reader fetches itself.
    if (closing_ || ahead_pages_ + pages > reading_pages_max_ / 3) return;
    ahead_pages_ += pages;
    // A handle of its own: the reader may close the object meanwhile.
    gate_.spawn(read_ahead_step(cache_.open_object(object.id()), range.offset, bytes));
    range.offset += bytes;
    range.bytes -= bytes;
  }
}

Task<> Db::Impl::read_ahead_step(Object* object, u64 offset, u64 bytes) {
  Operation operation(*this);
  // An error is for the reader that comes to these pages, who meets it again.
  static_cast<void>(co_await as_result(fetch(*object, offset, bytes)));
  ahead_pages_ -= bytes / kPageBytes + 2;
  cache_.close_object(object);
  co_return {};
}

}  // namespace zerofs
