// The tables of one version, as lookups want them. Immutable; whoever holds it keeps its readers.
#pragma once

#include "engine/lsm/table_reader.h"

namespace zerofs::lsm {

using TableRef = std::shared_ptr<TableReader>;

class TableSet {
 public:
  TableSet() = default;
  // Level 0 newest first, deeper ones disjoint and in key order.
  explicit TableSet(std::vector<std::vector<TableRef>> levels);

  // Those that may say something of the key, newest first: all of level 0 whose range holds it, one
  // of each deeper level.
  std::vector<TableReader*> holding(std::string_view key) const;

  // All, newest first. Deeper levels are older as a whole.
  const std::vector<TableRef>& newest_first() const { return all_; }
  TableRef find(format::TableId id) const;
  std::size_t size() const { return all_.size(); }
  std::size_t level0_size() const { return levels_.empty() ? 0 : levels_.front().size(); }

 private:
  std::vector<std::vector<TableRef>> levels_;
  std::vector<TableRef> all_;
};

}  // namespace zerofs::lsm
