// Goal: looking through the tables made of a layer is looking into the layer, however they were
// cut; a table costs the requests that DESIGN section 7 promises; damage is never served. Method:
// random layers with tiny blocks and tables against the layer itself; counters of the store;
// flipped, cut, swapped and missing objects.
#include <doctest/doctest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "engine/format/trailer.h"
#include "engine/lsm/layer_parts.h"
#include "layer_model.h"
#include "lsm_world.h"

namespace zerofs::lsm::test {

namespace {

// The tables of one layer, looked at as one.
class Tables {
 public:
  Tables(LsmWorld& world, const Layer& layer, const TableOptions& options)
      : world_(world), records_(world.put(layer, options)) {
    for (const format::TableRecord& record : records_) {
      readers_.push_back(world.reader(record, cache_));
    }
  }
  const std::vector<format::TableRecord>& records() const { return records_; }
  BlockCache& cache() { return cache_; }

  u32 find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) {
    for (const auto& reader : readers_) {
      const Result<u32> left = world_.run(reader->find(object, chunk, need, out));
      REQUIRE(left);
      need = *left;
    }
    return need;
  }
  std::optional<u32> try_find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) {
    for (const auto& reader : readers_) {
      const std::optional<u32> left = reader->try_find(object, chunk, need, out);
      if (!left) return {};
      need = *left;
    }
    return need;
  }
  std::optional<MetaEntry> find_meta(const std::string& key) {
    std::optional<MetaEntry> found;
    for (const auto& reader : readers_) {
      const Result<std::optional<MetaEntry>> here = world_.run(reader->find_meta(key));
      REQUIRE(here);
      REQUIRE(!(found && *here));  // tables are disjoint
      if (*here) found = **here;
    }
    return found;
  }
  std::vector<MetaEntry> scan_meta(const std::string& prefix) {
    std::vector<MetaEntry> out;
    for (const auto& reader : readers_) REQUIRE(world_.run(reader->scan_meta(prefix, out)));
    return out;
  }
  std::vector<u64> chunks_between(ObjectId object, u64 first, u64 last) {
    std::vector<u64> out;
    for (const auto& reader : readers_) {
      const Result<std::vector<u64>> here =
          world_.run(reader->chunks_between(object, first, last, 1000));
      REQUIRE(here);
      out.insert(out.end(), here->begin(), here->end());
    }
    return out;
  }

 private:
  LsmWorld& world_;
  std::vector<format::TableRecord> records_;
  BlockCache cache_{kMiB};
  std::vector<std::unique_ptr<TableReader>> readers_;
};

// A few hundred chunks of several objects with ranges around and across them, and some meta.
Layer random_layer(Rng& rng) {
  LayerBuilder builder;
  const u64 objects = 1 + below(rng, 4);
  for (u64 i = below(rng, 30); i != 0; --i) {
    const ObjectId object = object_at(below(rng, objects + 1));
    const u64 first = below(rng, 400);
    const bool deleted = below(rng, 15) == 0;
    const u64 last = below(rng, 10) == 0 ? kChunkIndexMax : first + below(rng, 60);
    builder.erase({object, deleted ? 0 : first, deleted ? kChunkIndexMax : last, deleted});
  }
  for (u64 i = below(rng, 300); i != 0; --i) {
    const ObjectId object = object_at(below(rng, objects));
    const u64 chunk = below(rng, 10) == 0 ? kChunkIndexMax - below(rng, 3) : below(rng, 400);
    const TestFrame& frame = frame_at(below(rng, kFrames));
    if (below(rng, 5) == 0) {
      builder.add_empty(object, chunk, 1 | static_cast<u32>(rng()), RunKind::zero);
    } else {
      builder.add_data(object, chunk, frame.mask, frame.segment, frame.frame);
    }
  }
  for (u64 i = below(rng, 60); i != 0; --i) {
    std::optional<std::string> value;
    if (below(rng, 4) != 0) value = std::string(below(rng, 50), 'v');
    builder.put_meta("key" + std::to_string(below(rng, 100)), value);
  }
  return std::move(builder).build();
}

// Chunks where something begins or ends, and their neighbours.
std::set<std::pair<ObjectId, u64>> interesting(const Layer& layer) {
  std::set<std::pair<ObjectId, u64>> out;
  const auto add = [&](ObjectId object, u64 chunk) {
    out.insert({object, chunk});
    if (chunk > 0) out.insert({object, chunk - 1});
    if (chunk < kChunkIndexMax) out.insert({object, chunk + 1});
  };
  for (const Entry& entry : layer.entries) {
    add(view_of(layer, entry).object, view_of(layer, entry).chunk);
  }
  for (const ErasedRange& range : layer.erased) {
    add(range.object, range.first);
    add(range.object, range.last);
  }
  return out;
}

void check_equal(Tables& tables, const Layer& layer, Rng& rng) {
  for (const auto& [object, chunk] : interesting(layer)) {
    const u32 need = below(rng, 2) == 0 ? ~u32{0} : static_cast<u32>(rng());
    std::vector<Found> expected;
    const u32 expected_left = find_in_layer(layer, object, chunk, need, expected);
    std::vector<Found> found;
    REQUIRE(tables.find(object, chunk, need, found) == expected_left);
    REQUIRE(spread(found) == spread(expected));
    std::vector<Found> again;
    const std::optional<u32> at_once = tables.try_find(object, chunk, need, again);
    REQUIRE(at_once == expected_left);  // it is all cached now
    REQUIRE(spread(again) == spread(expected));
  }
  for (u64 i = 0; i < 100; ++i) {
    const std::string key = "key" + std::to_string(i);
    const MetaEntry* const expected = find_meta(layer, key);
    const std::optional<MetaEntry> found = tables.find_meta(key);
    REQUIRE(found.has_value() == (expected != nullptr));
    if (found) REQUIRE(*found == *expected);
  }
  REQUIRE(tables.scan_meta("") == layer.meta);
  std::vector<MetaEntry> some;
  std::ranges::copy_if(layer.meta, std::back_inserter(some),
                       [](const MetaEntry& entry) { return entry.key.starts_with("key1"); });
  REQUIRE(tables.scan_meta("key1") == some);
  for (const ObjectId object : layer.objects) {
    const u64 first = below(rng, 300);
    const u64 last = below(rng, 4) == 0 ? kChunkIndexMax : first + below(rng, 200);
    REQUIRE(tables.chunks_between(object, first, last) ==
            chunks_in_layer(layer, object, first, last, 1000));
  }
}

TableIndex index_of(LsmWorld& world, const format::TableRecord& record) {
  const Bytes object = world.store().objects()[format::table_name(record.id)];
  format::ObjectCipher cipher(world.keys(), world.salt(), format::table_name(record.id));
  const u64 footer_offset = object.size() - kTableEndBytes;
  TableFooter footer;
  REQUIRE(cipher.open(format::PieceKind::table_footer, footer_offset, Codec::raw, sizeof footer,
                      object.subspan(footer_offset, kTableFooterSealedBytes),
                      {reinterpret_cast<std::byte*>(&footer), sizeof footer}));
  const auto blob = decode_table_footer(footer, footer_offset);
  REQUIRE(blob);
  const auto plain = format::open_blob(cipher, format::PieceKind::table_index, *blob,
                                       object.subspan(blob->offset, blob->stored_bytes));
  REQUIRE(plain);
  const auto index = decode_index(*plain, blob->offset);
  REQUIRE(index);
  return *index;
}

}  // namespace

TEST_CASE("tables equal the layer that they are made of") {
  for (u64 seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    LsmWorld world;
    const Layer layer = random_layer(rng);
    TableOptions options = world.options();
    options.block_bytes = 64 + static_cast<u32>(below(rng, 1000));
    options.table_bytes_max = 2 * kKiB + below(rng, 16 * kKiB);
    options.compression = {.stored = below(rng, 2) == 0, .level = 1};
    Tables tables(world, layer, options);

    // Sizes, order, what the records say.
    format::TableRecord sum;
    std::vector<ErasedRange> erased;
    const format::TableRecord* previous = nullptr;
    for (const format::TableRecord& record : tables.records()) {
      REQUIRE(record.id.number == 1 + static_cast<u64>(&record - tables.records().data()));
      REQUIRE(record.object_bytes <= options.table_bytes_max);
      REQUIRE(record.object_bytes == world.store().objects()[format::table_name(record.id)].size());
      REQUIRE(record.first_key <= record.last_key);
      if (previous != nullptr) REQUIRE(previous->last_key < record.first_key);
      previous = &record;
      sum.entries += record.entries;
      sum.meta_entries += record.meta_entries;
      const TableIndex index = index_of(world, record);
      erased.insert(erased.end(), index.erased.begin(), index.erased.end());
    }
    REQUIRE(sum.entries == layer.entries.size());
    REQUIRE(sum.meta_entries == layer.meta.size());
    join_ranges(erased);  // what cuts divided
    REQUIRE(erased == layer.erased);
    check_equal(tables, layer, rng);
  }
}

TEST_CASE("tables of tiny layers, and none of an empty one") {
  LsmWorld world;
  CHECK(build_tables({}, world.options()).empty());
  for (u64 seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const Layer layer = random_sample(rng, 8).layer;
    Tables tables(world, layer, world.options());
    REQUIRE(tables.records().size() == (layer.empty() ? 0 : 1));
    check_equal(tables, layer, rng);
    world.store().objects().clear();
  }
}

TEST_CASE("a table counts what it refers to in each segment, each frame once a chunk") {
  LsmWorld world;
  LayerBuilder builder;
  const SegmentId first = log_segment(Term{1}, Seq{5});
  const SegmentId second = pack_segment(Term{2}, 9);
  const ObjectId object = object_at(0);
  builder.add_data(object, 1, 0xf, second, {.offset = 0, .stored_bytes = 5000, .page_count = 8});
  builder.add_data(object, 1, 0xf00, first,
                   {.offset = 64, .stored_bytes = 700, .first_page = 8, .page_count = 4});
  builder.add_data(object, 2, 0x1, second, {.offset = 8000, .stored_bytes = 30});
  builder.add_empty(object, 3, 1, RunKind::zero);
  const auto records = world.put(std::move(builder).build(), world.options());
  REQUIRE(records.size() == 1);
  const std::vector<SegmentUse> expected{{second, 5030}, {first, 700}};  // as first used
  CHECK(index_of(world, records[0]).segments == expected);
}

TEST_CASE("an erased range that spans a cut is divided, and keeps its mark") {
  LsmWorld world;
  LayerBuilder builder;
  builder.erase({object_at(0), 0, kChunkIndexMax, true});
  for (u64 chunk = 100; chunk < 1000; ++chunk) {
    builder.add_empty(object_at(0), chunk, static_cast<u32>(chunk), RunKind::zero);
  }
  TableOptions options = world.options();
  options.table_bytes_max = 4 * kKiB;
  const auto records = world.put(std::move(builder).build(), options);
  REQUIRE(records.size() > 2);
  u64 next = 0;
  for (const format::TableRecord& record : records) {
    const std::vector<ErasedRange> erased = index_of(world, record).erased;
    REQUIRE(erased.size() == 1);
    CHECK(erased[0].first == next);
    CHECK(erased[0].whole_object);
    next = erased[0].last + 1;
  }
  CHECK(next == kChunkIndexMax + 1);
}

TEST_CASE("many erased ranges are cut like everything else") {
  LsmWorld world;
  LayerBuilder builder;
  for (u64 i = 0; i < 5000; ++i) builder.erase({object_at(0), i * 1000, i * 1000 + i % 900});
  const Layer layer = std::move(builder).build();
  TableOptions options = world.options();
  options.table_bytes_max = 8 * kKiB;
  Tables tables(world, layer, options);
  CHECK(tables.records().size() > 5);
  for (const auto& record : tables.records()) CHECK(record.object_bytes <= 8 * kKiB);
  Rng rng(1);
  check_equal(tables, layer, rng);
}

TEST_CASE("a value larger than the limits gets a table of its own") {
  LsmWorld world;
  LayerBuilder builder;
  builder.put_meta("key1", "small");
  builder.put_meta("key2", std::string(100'000, 'x'));
  builder.put_meta("key3", "small");
  const Layer layer = std::move(builder).build();
  TableOptions options = world.options();
  options.table_bytes_max = 4 * kKiB;
  options.compression.stored = true;
  Tables tables(world, layer, options);
  CHECK(tables.records().size() == 3);
  Rng rng(1);
  check_equal(tables, layer, rng);
}

// ---- requests

namespace {

// Values that do not compress, so that the index is as large as asked for.
Layer large_layer(u64 chunks) {
  Rng rng(3);
  LayerBuilder builder;
  for (u64 chunk = 0; chunk < chunks; ++chunk) {
    const u64 page = below(rng, kPagesPerChunk);
    builder.add_data(object_at(0), chunk * (1 + below(rng, 3)) + chunk * 3, u32{1} << page,
                     log_segment(Term{1}, Seq{below(rng, 4096)}),
                     {.offset = below(rng, kMiB) * 16,
                      .stored_bytes = 1000 + static_cast<u32>(below(rng, 3000)),
                      .first_page = static_cast<u8>(page)});
  }
  return std::move(builder).build();
}

Task<> look_up(TableReader& reader, u64 chunk, u64& done) {
  std::vector<Found> found;
  const u32 left = co_await reader.find(object_at(0), chunk, 1, found);
  static_cast<void>(left);
  ++done;
  co_return {};
}

}  // namespace

TEST_CASE("one read opens a table, one more fetches a block, and nobody fetches twice") {
  LsmWorld world;
  const Layer layer = large_layer(20'000);
  const auto records = world.put(layer, world.options());
  REQUIRE(records.size() == 1);
  BlockCache cache(kMiB);
  const auto reader = world.reader(records[0], cache);
  std::vector<Found> found;
  const u64 chunk = view_of(layer, layer.entries[777]).chunk;
  CHECK(!reader->try_find(object_at(0), chunk, ~u32{0}, found));
  CHECK(world.store().counters().reads == 0);

  Gate gate(world.executor());
  u64 done = 0;
  for (u64 i = 0; i < 20; ++i) gate.spawn(look_up(*reader, chunk, done));
  REQUIRE(world.run(gate.close()).has_value());
  CHECK(done == 20);
  CHECK(world.store().counters().reads == 2);
  CHECK(reader->try_find(object_at(0), chunk, ~u32{0}, found));
  CHECK(found.size() == 1);

  // What lies outside the table's range needs nothing.
  CHECK(reader->try_find(object_at(1), chunk, ~u32{0}, found) == ~u32{0});
  CHECK(world.store().counters().reads == 2);
}

TEST_CASE("a large index costs one more read, of only what the first did not bring") {
  LsmWorld world;
  const Layer layer = large_layer(200'000);
  TableOptions options = world.options();
  options.block_bytes = 60;  // many blocks
  const auto records = world.put(layer, options);
  REQUIRE(records.size() == 1);
  const TableIndex index = index_of(world, records[0]);
  BlockCache cache(4 * kMiB);
  const auto reader = world.reader(records[0], cache);
  std::vector<Found> found;
  const u64 chunk = view_of(layer, layer.entries[777]).chunk;
  REQUIRE(world.run(reader->find(object_at(0), chunk, ~u32{0}, found)));
  CHECK(found.size() == 1);
  CHECK(world.store().counters().reads == 3);
  const u64 blocks_end =
      format::align_piece(index.blocks.back().blob().offset + index.blocks.back().stored_bytes);
  CHECK(records[0].object_bytes - blocks_end > 256 * kKiB);
  const u64 block = index.blocks[index.block_for(DataKey(object_at(0), chunk))].stored_bytes;
  CHECK(world.store().counters().read_bytes == records[0].object_bytes - blocks_end + block);
}

TEST_CASE("a reader's index counts against the cache while it lives") {
  LsmWorld world;
  const auto records = world.put(large_layer(1000), world.options());
  BlockCache cache(kMiB);
  {
    const auto reader = world.reader(records[0], cache);
    std::vector<Found> found;
    REQUIRE(world.run(reader->find(object_at(0), 5, 1, found)));
    CHECK(cache.bytes() > 0);
  }
  const u64 blocks_only = cache.bytes();
  cache.charge(kMiB);
  CHECK(cache.bytes() == kMiB);
  CHECK(blocks_only < 20 * kKiB);
  cache.uncharge(kMiB);
}

// ---- damage

namespace {

// A damaged trailer may claim a newer version; what is missing may have been compacted by another.
bool is_refusal(const Error& error) {
  return error.code() == Code::corrupt || error.code() == Code::invalid ||
         error.code() == Code::not_found;
}

// Every key of the layer is answered rightly or refused. How often it was the latter.
u64 count_refusals(LsmWorld& world, const format::TableRecord& record, const Layer& layer) {
  BlockCache cache(kMiB);
  const auto reader = world.reader(record, cache);
  u64 refused = 0;
  for (const auto& [object, chunk] : interesting(layer)) {
    std::vector<Found> expected;
    const u32 expected_left = find_in_layer(layer, object, chunk, ~u32{0}, expected);
    std::vector<Found> found;
    const Result<u32> left = world.run(reader->find(object, chunk, ~u32{0}, found));
    if (!left) {
      REQUIRE(is_refusal(left.error()));
      ++refused;
      continue;
    }
    REQUIRE(*left == expected_left);
    REQUIRE(spread(found) == spread(expected));
  }
  std::vector<MetaEntry> meta;
  const Result<> scanned = world.run(reader->scan_meta("", meta));
  if (scanned) {
    REQUIRE(meta == layer.meta);
  } else {
    REQUIRE(is_refusal(scanned.error()));
    ++refused;
  }
  return refused;
}

struct Damage {
  LsmWorld world;
  Layer layer;
  format::TableRecord record;
  Buffer good;

  Damage() {
    Rng rng(5);
    layer = random_layer(rng);
    TableOptions options = world.options();
    options.block_bytes = 400;
    record = world.put(layer, options).at(0);
    good = Buffer::copy_of(object());
    REQUIRE(count_refusals(world, record, layer) == 0);
  }
  Buffer& object() { return world.store().objects()[format::table_name(record.id)]; }
};

}  // namespace

TEST_CASE("a flipped bit is refused wherever it lies") {
  Damage damage;
  Rng rng(1);
  u64 unnoticed = 0;  // padding in front of pieces
  for (u64 at = 0; at < damage.good.size(); at += 1 + below(rng, 5)) {
    CAPTURE(at);
    damage.object() = Buffer::copy_of(damage.good);
    damage.object().data()[at] ^= static_cast<std::byte>(1u << below(rng, 8));
    if (count_refusals(damage.world, damage.record, damage.layer) == 0) ++unnoticed;
  }
  CHECK(unnoticed < damage.good.size() / 20);
}

TEST_CASE("truncated, swapped, foreign and missing tables are refused") {
  Damage damage;
  const auto refused = [&] {
    return count_refusals(damage.world, damage.record, damage.layer) > 0;
  };
  for (const u64 bytes :
       {u64{0}, u64{15}, kTableEndBytes - 1, kTableEndBytes, damage.good.size() / 2,
        damage.good.size() - 16, damage.good.size() - 1}) {
    damage.object() = Buffer::copy_of(damage.good.bytes().first(bytes));
    CHECK(refused());
  }
  damage.world.store().objects().erase(format::table_name(damage.record.id));
  CHECK(refused());

  // Another table under this name, of the same size or not.
  TableOptions options = damage.world.options();
  options.first_number = 2;
  options.block_bytes = 400;
  const format::TableRecord other = damage.world.put(damage.layer, options).at(0);
  damage.object() = Buffer::copy_of(damage.world.store().objects()[format::table_name(other.id)]);
  CHECK(refused());

  // The right object, but a record that speaks of another one.
  damage.object() = Buffer::copy_of(damage.good);
  CHECK(!refused());
  damage.record.entries += 1;
  CHECK(refused());
}

TEST_CASE("a table of a newer version says so") {
  Damage damage;
  format::Trailer trailer = format::trailer_of(format::kTableMagic);
  trailer.version = format::kFormatVersion + 1;
  const Bytes bytes = struct_bytes(trailer);
  std::ranges::copy(bytes, damage.object().data() + damage.good.size() - bytes.size());
  BlockCache cache(kMiB);
  const auto reader = damage.world.reader(damage.record, cache);
  std::vector<MetaEntry> meta;
  const Result<> scanned = damage.world.run(reader->scan_meta("", meta));
  REQUIRE(!scanned);
  CHECK(scanned.error().code() == Code::invalid);
}

TEST_CASE("the log names a damaged table, once") {
  Damage damage;
  damage.object().data()[damage.good.size() - 40] ^= std::byte{1};
  std::ostringstream text;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text)));
  CHECK(count_refusals(damage.world, damage.record, damage.layer) > 1);
  spdlog::set_default_logger(before);
  const std::string log = text.str();
  const std::size_t at = log.find(format::table_name(damage.record.id));
  CHECK(at != std::string::npos);
  CHECK(log.find(format::table_name(damage.record.id), at + 1) == std::string::npos);
}

}  // namespace zerofs::lsm::test
