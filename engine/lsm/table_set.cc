#include "engine/lsm/table_set.h"

#include <algorithm>

namespace zerofs::lsm {

TableSet::TableSet(std::vector<std::vector<TableRef>> levels) : levels_(std::move(levels)) {
  for (const auto& level : levels_) all_.insert(all_.end(), level.begin(), level.end());
}

std::vector<TableReader*> TableSet::holding(std::string_view key) const {
  std::vector<TableReader*> out;
  const auto holds = [key](const TableRef& table) {
    return table->record().first_key <= key && key <= table->record().last_key;
  };
  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const auto& level = levels_[i];
    if (i == 0) {
      for (const TableRef& table : level) {
        if (holds(table)) out.push_back(table.get());
      }
      continue;
    }
    const auto at = std::ranges::lower_bound(level, key, {}, [](const TableRef& table) {
      return std::string_view(table->record().last_key);
    });
    if (at != level.end() && holds(*at)) out.push_back(at->get());
  }
  return out;
}

TableRef TableSet::find(format::TableId id) const {
  const auto at = std::ranges::find(all_, id, [](const TableRef& t) { return t->record().id; });
  return at == all_.end() ? nullptr : *at;
}

}  // namespace zerofs::lsm
