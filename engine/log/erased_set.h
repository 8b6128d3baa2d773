// The erased ranges of one batch: sorted, joined, asked by chunk.
#pragma once

#include <map>

#include "engine/lsm/layer.h"

namespace zerofs::log {

class ErasedSet {
 public:
  // Joins the range with what it overlaps or touches.
  void add(const lsm::ErasedRange& range);
  bool covers(ObjectId object, u64 chunk) const;
  bool empty() const { return ranges_.empty(); }
  std::size_t size() const { return ranges_.size(); }
  void clear() { ranges_.clear(); }
  template <class Visitor>
  void for_each(Visitor visit) const {
    for (const auto& [key, end] : ranges_) {
      visit(lsm::ErasedRange{{key.first}, key.second, end.last, end.whole_object});
    }
  }

 private:
  struct End {
    u64 last;
    bool whole_object;
  };
  std::map<std::pair<u64, u64>, End> ranges_;  // (object, first) → last
};

}  // namespace zerofs::log
