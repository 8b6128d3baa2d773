// Goal: merged tables say what their inputs said one above the other, however everything was cut;
// the picker keeps the levels' promises. Method: random layers, made into tables with tiny blocks,
// fed a few blocks at a time, against the fold of the same layers; random histories of flushes and
// compactions against the rules of levels.
#include "engine/lsm/compaction.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "engine/lsm/table_key.h"
#include "engine/lsm/table_merge.h"
#include "engine/lsm/table_set.h"
#include "layer_model.h"
#include "lsm_world.h"

namespace zerofs::lsm::test {

namespace {

// The tables of a layer, to be merged and looked at.
struct Group {
  std::vector<TableRef> tables;  // disjoint, in key order
  Group(LsmWorld& world, BlockCache& cache, const std::vector<format::TableRecord>& records) {
    for (const format::TableRecord& record : records) tables.push_back(world.reader(record, cache));
    for (const TableRef& table : tables) REQUIRE(world.run(table->load()));
  }
};

std::vector<format::TableRecord> merge(LsmWorld& world, Rng& rng, const std::vector<Group>& groups,
                                       const TableOptions& options, bool oldest_is_level,
                                       bool is_bottom) {
  std::vector<TableRef> tables;
  std::vector<TableMerge::Input> inputs;
  for (const Group& group : groups) {
    for (const TableRef& table : group.tables) {
      tables.push_back(table);
      inputs.push_back({.index = &table->index(),
                        .first_key = table->record().first_key,
                        .hides = !oldest_is_level || &group != &groups.back()});
    }
  }
  TableMerge merge(std::move(inputs), options, is_bottom);
  std::vector<std::size_t> next(tables.size());
  std::vector<format::TableRecord> out;
  while (!merge.at_end()) {
    for (const std::size_t input : merge.hungry()) {
      const std::size_t left = tables[input]->index().blocks.size() - next[input];
      const std::size_t count = std::min<std::size_t>(left, 1 + below(rng, 3));
      TableMerge::Blocks blocks;
      if (count != 0) {
        Result<Buffer> stored = world.run(tables[input]->read_blocks(next[input], count));
        REQUIRE(stored);
        Result<TableMerge::Blocks> opened = tables[input]->open_blocks(next[input], count, *stored);
        REQUIRE(opened);
        blocks = std::move(*opened);
      }
      next[input] += count;
      merge.feed(input, std::move(blocks));
    }
    REQUIRE(merge.advance());
    for (BuiltTable& table : merge.take_finished()) {
      out.push_back(table.record);
      world.store().objects()[format::table_name(table.record.id)] = std::move(table.object);
    }
  }
  return out;
}

void check_equal(LsmWorld& world, const Group& merged, const Layer& expected, bool is_bottom) {
  for (u64 object = 0; object < kObjects; ++object) {
    for (u64 chunk = 0; chunk <= kChunks; ++chunk) {
      const u64 at = chunk == kChunks ? kChunkIndexMax : chunk;
      std::vector<Found> want;
      u32 left = find_in_layer(expected, object_at(object), at, ~u32{0}, want);
      std::vector<Found> got;
      u32 need = ~u32{0};
      for (const TableRef& table : merged.tables) {
        const Result<u32> here = world.run(table->find(object_at(object), at, need, got));
        REQUIRE(here);
        need = *here;
      }
      auto a = spread(want);
      auto b = spread(got);
      if (is_bottom) {
        // Nothing lies below, so a hole need not be said.
        for (SourceId& source : a) source = source == kHoleSource ? kNoSource : source;
        left = need;
      }
      CHECK(a == b);
      CHECK(need == left);
    }
  }
  std::vector<MetaEntry> meta;
  for (const TableRef& table : merged.tables) REQUIRE(world.run(table->scan_meta("", meta)));
  std::vector<MetaEntry> wanted = expected.meta;
  if (is_bottom) std::erase_if(wanted, [](const MetaEntry& entry) { return !entry.value; });
  CHECK(meta == wanted);
}

}  // namespace

TEST_CASE("merged tables are the fold of their layers") {
  LsmWorld world;
  Rng rng(20);
  u64 next_number = 1;
  for (int round = 0; round < 400; ++round) {
    BlockCache cache(kMiB);
    TableOptions options = world.options();
    options.block_bytes = static_cast<u32>(64 + below(rng, 400));
    options.table_bytes_max = below(rng, 2) == 0 ? 900 + below(rng, 2000) : 64 * kMiB;
    std::vector<Group> groups;  // newest first
    Layer folded;
    const u64 count = 2 + below(rng, 4);
    for (u64 i = 0; i < count; ++i) {
      Sample sample = random_sample(rng, 30);
      folded = i == 0 ? sample.layer : fold(folded, sample.layer);
      options.first_number = next_number;
      next_number += 1000;
      groups.emplace_back(world, cache, world.put(sample.layer, options));
    }
    const bool oldest_is_level = below(rng, 2) == 0;
    const bool is_bottom = below(rng, 3) == 0;
    options.first_number = next_number;
    next_number += 1000;
    const std::vector<format::TableRecord> records =
        merge(world, rng, groups, options, oldest_is_level, is_bottom);
    CHECK(std::ranges::adjacent_find(records, [](const auto& a, const auto& b) {
            return a.last_key >= b.first_key;
          }) == records.end());
    const Group merged(world, cache, records);
    check_equal(world, merged, folded, is_bottom);
    world.store().objects().clear();
  }
}

// ---- the picker

namespace {

format::TableRecord record(u64 number, u64 first, u64 last, u64 bytes) {
  format::TableRecord out;
  out.id = {Term{1}, number};
  out.object_bytes = bytes;
  out.entries = 1;
  out.first_key = std::string(DataKey({1}, first));
  out.last_key = std::string(DataKey({1}, last));
  return out;
}

}  // namespace

TEST_CASE("levels stay disjoint, within their sizes, and age is position, over a random history") {
  constexpr u64 kBase = 1000;
  Rng rng(4);
  format::Manifest manifest;
  manifest.terms.push_back({.term = {1}, .end = {}, .owner = {}});
  manifest.last_term = {1};
  CompactionCursors cursors;
  u64 number = 0;
  u64 moves = 0;
  u64 among_themselves = 0;
  u32 deepest = 0;
  for (int round = 0; round < 6000; ++round) {
    const u64 first = below(rng, 100'000);
    FlushMemtable flush;
    flush.tables.push_back(record(++number, first, first + below(rng, 20'000), 100));
    Result<format::Manifest> flushed = apply_edit(manifest, {flush});
    REQUIRE(flushed);
    manifest = std::move(*flushed);

    for (int jobs = 0;; ++jobs) {
      const std::optional<Compaction> job = pick_compaction(manifest.levels, kBase, kMiB, cursors);
      if (!job) break;
      REQUIRE(jobs < 1000);  // it comes to rest
      ReplaceTables edit{.inputs = job->inputs, .level = job->into, .outputs = {}};
      std::vector<format::TableRecord> inputs;
      for (const auto& place : job->inputs) {
        const auto& level = manifest.levels[place.level];
        const auto at = std::ranges::find(level, place.id, &format::TableRecord::id);
        REQUIRE(at != level.end());
        inputs.push_back(*at);
      }
      if (job->is_move) {
        edit.outputs = inputs;
        ++moves;
      } else {
        // As a merge would: the hull, cut where it pleases, a little smaller.
        std::string low = inputs[0].first_key;
        std::string high = inputs[0].last_key;
        u64 bytes = 0;
        for (const auto& input : inputs) {
          low = std::min(low, input.first_key);
          high = std::max(high, input.last_key);
          bytes += input.object_bytes;
        }
        format::TableRecord out = record(++number, 0, 0, bytes - bytes / 20);
        out.first_key = low;
        out.last_key = high;
        edit.outputs = {out};
        if (job->into == 0) ++among_themselves;
      }
      const bool nothing_below = [&] {
        for (u32 level = job->into + 1; level < manifest.levels.size(); ++level) {
          if (!manifest.levels[level].empty()) return false;
        }
        return true;
      }();
      if (nothing_below) CHECK(job->is_bottom);
      Result<format::Manifest> next = apply_edit(manifest, {edit});
      REQUIRE(next);  // validates places and disjointness
      // The same again is refused: its inputs are gone.
      if (!job->is_move) CHECK_FALSE(apply_edit(*next, {edit}));
      manifest = std::move(*next);
    }
    CHECK(manifest.levels[0].size() < kLevel0Trigger);
    for (u32 level = 1; level < manifest.levels.size(); ++level) {
      if (!manifest.levels[level].empty()) deepest = std::max(deepest, level);
    }
  }
  CHECK(moves > 0);
  CHECK(among_themselves > 0);
  CHECK(deepest >= 2);
}

TEST_CASE("level 0 is merged within itself only if one table comes of it") {
  Levels levels(2);
  for (u64 i = 1; i <= kLevel0Trigger; ++i) levels[0].push_back(record(i, 0, 100, 100));
  levels[1].push_back(record(9, 0, 100, 100'000));
  CompactionCursors cursors;
  CHECK(pick_compaction(levels, kGiB, kMiB, cursors)->into == 0);
  CHECK(pick_compaction(levels, kGiB, 399, cursors)->into == 1);
}

TEST_CASE("a compaction of level 0 that leaves an older table behind is refused") {
  format::Manifest manifest;
  manifest.levels = {{record(3, 0, 9, 1), record(2, 0, 9, 1), record(1, 0, 9, 1)}};
  const auto replace = [&](std::vector<u64> numbers) {
    ReplaceTables edit{.inputs = {}, .level = 1, .outputs = {record(9, 0, 9, 1)}};
    for (const u64 number : numbers) edit.inputs.push_back({0, {Term{1}, number}});
    return apply_edit(manifest, {edit});
  };
  CHECK_FALSE(replace({3}));
  CHECK_FALSE(replace({3, 2}));
  CHECK_FALSE(replace({3, 1}));
  REQUIRE(replace({2, 1}));
  CHECK(replace({2, 1})->levels[0].size() == 1);
  CHECK(replace({3, 2, 1})->levels[0].empty());
}

}  // namespace zerofs::lsm::test
