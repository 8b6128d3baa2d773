#include "engine/log/erased_set.h"

#include <algorithm>

namespace zerofs::log {

void ErasedSet::add(const lsm::ErasedRange& range) {
  const u64 object = range.object.value;
  u64 first = range.first;
  End end{range.last, range.whole_object};

  // From the last range that starts at or below `first`, absorb whatever overlaps or touches.
  auto at = ranges_.upper_bound({object, first});
  if (at != ranges_.begin()) {
    auto before = std::prev(at);
    if (before->first.first == object && before->second.last + 1 >= first) at = before;
  }
  while (at != ranges_.end() && at->first.first == object && at->first.second <= end.last + 1) {
    first = std::min(first, at->first.second);
    end.last = std::max(end.last, at->second.last);
    end.whole_object |= at->second.whole_object;
    at = ranges_.erase(at);
  }
  ranges_.insert({{object, first}, end});
}

bool ErasedSet::covers(ObjectId object, u64 chunk) const {
  auto after = ranges_.upper_bound({object.value, chunk});
  if (after == ranges_.begin()) return false;
  const auto& [key, end] = *std::prev(after);
  return key.first == object.value && chunk <= end.last;
}

}  // namespace zerofs::log
