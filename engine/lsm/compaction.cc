#include "engine/lsm/compaction.h"

#include <algorithm>

namespace zerofs::lsm {

namespace {

using format::TableRecord;

u64 bytes_of(const std::vector<TableRecord>& tables) {
  u64 bytes = 0;
  for (const TableRecord& table : tables) bytes += table.object_bytes;
  return bytes;
}

struct KeyRange {
  std::string first;
  std::string last;
  void cover(const TableRecord& table) {
    if (first.empty() || table.first_key < first) first = table.first_key;
    last = std::max(last, table.last_key);
  }
  bool overlaps(const TableRecord& table) const {
    return table.first_key <= last && first <= table.last_key;
  }
};

std::vector<TableRecord> overlapping(const Levels& levels, u32 level, const KeyRange& range) {
  std::vector<TableRecord> out;
  if (level >= levels.size()) return out;
  for (const TableRecord& table : levels[level]) {
    if (range.overlaps(table)) out.push_back(table);
  }
  return out;
}

bool anything_below(const Levels& levels, u32 level, const KeyRange& range) {
  for (u32 below = level + 1; below < levels.size(); ++below) {
    if (!overlapping(levels, below, range).empty()) return true;
  }
  return false;
}

void add(Compaction& out, u32 level, const std::vector<TableRecord>& tables) {
  for (const TableRecord& table : tables) out.inputs.push_back({level, table.id});
}

// Neighbours of the range in a level that are no larger than what comes: without them a load that
// is written in key order would leave one small table behind each time.
std::vector<TableRecord> small_neighbours(const Levels& levels, u32 level, const KeyRange& range,
                                          u64 bytes_max) {
  std::vector<TableRecord> out;
  if (level >= levels.size()) return out;
  const TableRecord* before = nullptr;
  const TableRecord* after = nullptr;
  for (const TableRecord& table : levels[level]) {
    if (table.last_key < range.first) before = &table;
    if (table.first_key > range.last && after == nullptr) after = &table;
  }
  for (const TableRecord* const table : {before, after}) {
    if (table != nullptr && table->object_bytes <= bytes_max) out.push_back(*table);
  }
  return out;
}

std::optional<Compaction> pick_level0(const Levels& levels, u64 table_bytes_max) {
  if (levels.empty() || levels[0].size() < kLevel0Trigger) return {};
  Compaction out;
  KeyRange range;
  for (const TableRecord& table : levels[0]) range.cover(table);
  add(out, 0, levels[0]);
  const std::vector<TableRecord> below = overlapping(levels, 1, range);
  const u64 bytes = bytes_of(levels[0]);
  out.into = bytes * 4 >= bytes_of(below) || bytes > table_bytes_max ? 1 : 0;
  if (out.into == 1) {
    add(out, 1, below);
    for (const TableRecord& table : below) range.cover(table);
    const std::vector<TableRecord> neighbours = small_neighbours(levels, 1, range, bytes);
    add(out, 1, neighbours);
    for (const TableRecord& table : neighbours) range.cover(table);
  }
  out.is_bottom = !anything_below(levels, out.into, range);
  return out;
}

// The deepest level that holds anything, at least 1.
u32 bottom_of(const Levels& levels) {
  u32 bottom = 1;
  for (u32 level = 1; level < levels.size(); ++level) {
    if (!levels[level].empty()) bottom = level;
  }
  return bottom;
}

// How far above its size a level is; at most 1 when it is not.
double excess(const Levels& levels, u32 level, u32 bottom, u64 base) {
  double target = static_cast<double>(base);
  if (level == bottom) {
    // The bottom is full when another level would not be small any more.
    for (u32 i = 0; i < level; ++i) target *= kLevelFanOut;
  } else {
    double share = static_cast<double>(bytes_of(levels[bottom]));
    for (u32 i = level; i < bottom; ++i) share /= kLevelFanOut;
    target = std::max(target, share);
  }
  return static_cast<double>(bytes_of(levels[level])) / target;
}

}  // namespace

std::optional<Compaction> pick_compaction(const Levels& levels, u64 level_bytes_base,
                                          u64 table_bytes_max, CompactionCursors& cursors) {
  if (std::optional<Compaction> first = pick_level0(levels, table_bytes_max)) return first;
  const u32 bottom = bottom_of(levels);
  u32 fullest = 0;
  double most = 1;
  for (u32 level = 1; level < levels.size(); ++level) {
    const double now = excess(levels, level, bottom, level_bytes_base);
    if (now <= most) continue;
    most = now;
    fullest = level;
  }
  if (fullest == 0) return {};

  cursors.resize(std::max<std::size_t>(cursors.size(), fullest + 1));
  const std::vector<TableRecord>& from = levels[fullest];
  auto taken = std::ranges::find_if(
      from, [&](const TableRecord& table) { return table.first_key > cursors[fullest]; });
  if (taken == from.end()) taken = from.begin();
  cursors[fullest] = taken->last_key;

  Compaction out;
  out.into = fullest + 1;
  KeyRange range;
  range.cover(*taken);
  const std::vector<TableRecord> below = overlapping(levels, out.into, range);
  add(out, fullest, {*taken});
  add(out, out.into, below);
  out.is_move = below.empty();
  // What lies between is newer; the hull of the inputs decides what may be dropped.
  for (const TableRecord& table : below) range.cover(table);
  out.is_bottom = !anything_below(levels, out.into, range);
  return out;
}

}  // namespace zerofs::lsm
