// What to compact next (DESIGN section 7): leveled, with dynamic sizes. The deepest level in use is
// the bottom and holds most; each level above it may hold a tenth of the one below.
//
// Level 0 goes down whole: its tables overlap, and one may only move together with all older ones
// that it overlaps. It joins level 1 when it is worth rewriting what it overlaps there, else its
// tables become one among themselves. Deeper down one table after the other goes, in key order,
// and only its place changes where nothing below overlaps it.
#pragma once

#include "engine/lsm/version_set.h"

namespace zerofs::lsm {

using Levels = std::vector<std::vector<format::TableRecord>>;

constexpr u32 kLevel0Trigger = 4;   // tables
constexpr u32 kLevel0Slowdown = 8;  // writers get less room from here on…
constexpr u32 kLevel0Stop = 16;     // …and no memtable becomes a table here
constexpr u32 kLevelFanOut = 10;
constexpr u64 kLevelBytesBase = 64 * kMiB;  // no level above the bottom is asked to be smaller

struct Compaction {
  std::vector<ReplaceTables::Place> inputs;  // newest first
  u32 into = 0;                              // level of the outputs
  bool is_move = false;    // one table, which nothing overlaps: the record moves as it is
  bool is_bottom = false;  // nothing older lies below: what only hides older things is dropped
};

// Where the next table of each level is taken from: behind this key.
using CompactionCursors = std::vector<std::string>;

// None when every level is within its size. Moves the cursor of the level that it picks from.
// `table_bytes_max` is that of the outputs: level 0 is merged within itself only if one table comes
// of it, or the same would be due again at once.
std::optional<Compaction> pick_compaction(const Levels& levels, u64 level_bytes_base,
                                          u64 table_bytes_max, CompactionCursors& cursors);

}  // namespace zerofs::lsm
