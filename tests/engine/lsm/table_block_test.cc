// Goal: blocks, values, index and footer come back as they were written, and no bytes whatever make
// a decoder crash or hand out more than it may. Method: random content against a sorted map; single
// refusals by name; random damage.
#include "engine/lsm/table_block.h"

#include <doctest/doctest.h>

#include <map>

#include "engine/lsm/table_index.h"
#include "engine/lsm/table_key.h"
#include "layer_model.h"

namespace zerofs::lsm::test {

namespace {

using Records = std::map<std::string, std::string>;

Records random_records(Rng& rng) {
  Records out;
  for (u64 count = 1 + below(rng, 100); count != 0; --count) {
    std::string key(below(rng, 12), 'k');
    for (u64 i = below(rng, 4); i != 0; --i) key += static_cast<char>(below(rng, 256));
    out[key] = std::string(below(rng, 30), static_cast<char>(below(rng, 256)));
  }
  return out;
}

std::vector<std::byte> encode(const Records& records) {
  BlockBuilder builder;
  for (const auto& [key, value] : records) builder.add(key, value);
  const std::size_t bytes = builder.bytes();
  std::vector<std::byte> out = builder.finish();
  REQUIRE(out.size() == bytes);
  REQUIRE(builder.empty());
  return out;
}

Result<std::shared_ptr<const TableBlock>> decode(Bytes bytes) {
  return TableBlock::decode(Buffer::copy_of(bytes));
}

// Everything that a reader does with a block, for bytes that may be anything.
void use(const TableBlock& block, Rng& rng) {
  std::string previous;
  u64 count = 0;
  for (TableBlock::Cursor at = block.begin(); !at.at_end(); at.next(), ++count) {
    REQUIRE((count == 0 || at.key() > previous));
    previous = at.key();
    const std::vector<SegmentUse> segments(3);
    std::vector<Found> found;
    static_cast<void>(find_in_runs(at.value(), segments, static_cast<u32>(rng()), found));
    static_cast<void>(decode_meta_value(at.value()));
  }
  REQUIRE(count != 0);
  static_cast<void>(block.seek(previous));
}

// Flips, cuts, insertions.
std::vector<std::byte> damaged(std::vector<std::byte> bytes, Rng& rng) {
  for (u64 i = 1 + below(rng, 3); i != 0 && !bytes.empty(); --i) {
    const u64 at = below(rng, bytes.size());
    switch (below(rng, 4)) {
      case 0: bytes[at] ^= static_cast<std::byte>(1 + below(rng, 255)); break;
      case 1: bytes.resize(at); break;
      case 2:
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), std::byte(rng()));
        break;
      default: bytes[at] = std::byte{0xff}; break;
    }
  }
  return bytes;
}

TableIndex random_index(Rng& rng, u64& blocks_end) {
  TableIndex out;
  out.entries = below(rng, 1000);
  out.meta_entries = below(rng, 1000);
  blocks_end = 0;
  const Records keys = random_records(rng);
  for (const auto& [key, value] : keys) {
    if (key.empty()) continue;
    const format::BlobPointer blob{.offset = blocks_end,
                                   .stored_bytes = 1 + static_cast<u32>(below(rng, 20'000)),
                                   .plain_bytes = static_cast<u32>(below(rng, 20'000)),
                                   .codec = static_cast<Codec>(below(rng, 2))};
    out.add_block(key, blob);
    blocks_end = format::align_piece(blocks_end + blob.stored_bytes);
  }
  for (u64 i = below(rng, 20); i != 0; --i) {
    const u64 number = below(rng, u64{1} << kNumberBits);
    const Term term{below(rng, u64{1} << kTermBits)};
    const bool pack = below(rng, 2) == 0;
    out.segments.push_back({pack ? pack_segment(term, number) : log_segment(term, Seq{number}),
                            below(rng, u64{1} << 40)});
  }
  for (u64 object = below(rng, 3); object < 8; object += 1 + below(rng, 4)) {
    u64 first = below(rng, 10);
    for (u64 i = below(rng, 4); i != 0; --i) {
      const u64 last = first + below(rng, 1000);
      out.erased.push_back({{object}, first, last, below(rng, 2) == 0});
      first = last + 2 + below(rng, 1000);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("keys sort as the layer does") {
  Rng rng(1);
  for (u64 i = 0; i < 1000; ++i) {
    const EntryView a{{rng()}, rng() & kChunkIndexMax};
    const EntryView b{{below(rng, 2) == 0 ? a.object.value : rng()}, rng() & kChunkIndexMax};
    const DataKey key_a(a.object, a.chunk);
    const DataKey key_b(b.object, b.chunk);
    CHECK((key_a.text() < key_b.text()) ==
          (std::tie(a.object, a.chunk) < std::tie(b.object, b.chunk)));
    CHECK(key_a.text() < meta_table_key(""));
    const std::optional<EntryView> parsed = parse_data_key(key_a);
    REQUIRE(parsed);
    CHECK(parsed->object == a.object);
    CHECK(parsed->chunk == a.chunk);
  }
  CHECK(!parse_data_key("d"));
  CHECK(!parse_data_key("m0123456789abcdef"));
  CHECK(!parse_data_key(std::string("d") + std::string(16, '\xff')));  // no such chunk
  CHECK(parse_meta_key(meta_table_key("x")) == "x");
}

TEST_CASE("a block holds what was added, and a search finds its place") {
  for (u64 seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const Records records = random_records(rng);
    const auto block = decode(encode(records));
    REQUIRE(block);
    TableBlock::Cursor at = (*block)->begin();
    for (const auto& [key, value] : records) {
      REQUIRE(!at.at_end());
      REQUIRE(at.key() == key);
      REQUIRE(at.value() == value);
      at.next();
    }
    REQUIRE(at.at_end());
    const Records wanted = random_records(rng);
    for (const auto& [key, unused] : wanted) {
      const auto expected = records.lower_bound(key);
      const TableBlock::Cursor found = (*block)->seek(key);
      REQUIRE(found.at_end() == (expected == records.end()));
      if (!found.at_end()) REQUIRE(found.key() == expected->first);
    }
  }
}

TEST_CASE("damaged blocks are refused or harmless") {
  u64 refused = 0;
  for (u64 seed = 0; seed < 20'000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const auto block = decode(damaged(encode(random_records(rng)), rng));
    if (block) {
      use(**block, rng);
    } else {
      CHECK(block.error().code() == Code::corrupt);
      ++refused;
    }
  }
  CHECK(refused > 10'000);
}

TEST_CASE("blocks that are refused") {
  const auto refused = [](auto fill) {
    Writer out;
    fill(out);
    return !decode(out.bytes());
  };
  const auto record = [](Writer& out, u64 shared, std::string_view rest) {
    out.put_varint(shared);
    out.put_text(rest);
    out.put_text("value");
  };
  const auto end = [](Writer& out, std::initializer_list<u32> restarts) {
    for (const u32 restart : restarts) out.put<u32>(restart);
    out.put<u32>(static_cast<u32>(restarts.size()));
  };
  CHECK(!refused([&](Writer& out) { record(out, 0, "a"), record(out, 1, "b"), end(out, {0}); }));
  CHECK(refused([](Writer&) {}));
  CHECK(refused([&](Writer& out) { end(out, {}); }));
  CHECK(refused([&](Writer& out) { end(out, {0}); }));                      // no records
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), end(out, {}); }));  // no restart
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), end(out, {0, 0}); }));
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), end(out, {1}); }));
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), out.put<u32>(0), out.put<u32>(9); }));
  CHECK(refused([&](Writer& out) { record(out, 1, "a"), end(out, {0}); }));  // shares nothing
  CHECK(refused([&](Writer& out) { record(out, 0, "b"), record(out, 0, "a"), end(out, {0}); }));
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), record(out, 1, ""), end(out, {0}); }));
  CHECK(refused([&](Writer& out) { record(out, 0, "a"), out.put_varint(99), end(out, {0}); }));
}

TEST_CASE("runs come back, part by part") {
  for (u64 seed = 0; seed < 20'000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const std::vector<SegmentUse> segments{
        {frame_at(0).segment}, {frame_at(1).segment}, {frame_at(2).segment}, {frame_at(4).segment}};
    std::vector<Found> runs;
    std::vector<u32> indexes;
    u32 left = ~u32{0};
    for (u64 i = below(rng, 6); i != 0; --i) {
      const TestFrame& frame = frame_at(below(rng, kFrames));
      Found run{static_cast<u32>(rng()) & left, RunKind::zero, {}, {}};
      u32 index = 0;
      if (below(rng, 2) == 0) {
        index = static_cast<u32>(below(rng, segments.size()));
        run = {left & frame.mask, RunKind::data, segments[index].segment, frame.frame};
        if (below(rng, 2) == 0) run.mask &= static_cast<u32>(rng());
      } else if (below(rng, 2) == 0) {
        run.kind = RunKind::hole;
      }
      if (run.mask == 0) continue;
      left &= ~run.mask;
      runs.push_back(run);
      indexes.push_back(index);
    }
    Writer value;
    encode_runs(runs, indexes, value);
    const u32 need = static_cast<u32>(rng());
    std::vector<Found> found;
    const Result<u32> unresolved = find_in_runs(text_of(value.bytes()), segments, need, found);
    REQUIRE(unresolved);
    REQUIRE(*unresolved == (need & left));
    for (Found& run : runs) run.mask &= need;
    std::erase_if(runs, [](const Found& run) { return run.mask == 0; });
    REQUIRE(spread(found) == spread(runs));

    // And whatever else the bytes may be.
    found.clear();
    const auto bad = damaged({value.bytes().begin(), value.bytes().end()}, rng);
    if (find_in_runs(text_of(bad), segments, need, found)) {
      u32 seen = 0;
      for (const Found& run : found) {
        REQUIRE((run.mask & ~need) == 0);
        REQUIRE((run.mask & seen) == 0);
        seen |= run.mask;
      }
    }
  }
}

TEST_CASE("a random page costs about nine bytes before compression") {
  const std::vector<Found> runs{{0x10,
                                 RunKind::data,
                                 log_segment(Term{1}, Seq{9}),
                                 {.offset = 7 * kMiB,
                                  .stored_bytes = 2001,
                                  .first_page = 4,
                                  .page_count = 1,
                                  .codec = Codec::zstd}}};
  const u32 index = 300;
  Writer value;
  encode_runs(runs, {&index, 1}, value);
  CHECK(value.size() == 9);
}

TEST_CASE("meta values") {
  for (const std::optional<std::string>& value :
       {std::optional<std::string>(), std::optional<std::string>(""),
        std::optional<std::string>("-"), std::optional<std::string>("value")}) {
    const Result<std::optional<std::string>> decoded = decode_meta_value(encode_meta_value(value));
    REQUIRE(decoded);
    CHECK(*decoded == value);
  }
  CHECK(!decode_meta_value(""));
  CHECK(!decode_meta_value("x"));
  CHECK(!decode_meta_value("-x"));
}

TEST_CASE("an index comes back, and damage is refused or harmless") {
  for (u64 seed = 0; seed < 5000; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    u64 blocks_end = 0;
    const TableIndex index = random_index(rng, blocks_end);
    const std::vector<std::byte> bytes = encode_index(index);
    const Result<TableIndex> decoded = decode_index(bytes, blocks_end);
    REQUIRE(decoded);
    REQUIRE(*decoded == index);
    for (std::size_t i = 0; i < index.blocks.size(); ++i) {
      REQUIRE(decoded->block_for(index.last_key(i)) == i);
    }
    REQUIRE(!decode_index(bytes, blocks_end + 16));

    const Result<TableIndex> other = decode_index(damaged(bytes, rng), blocks_end);
    if (!other) continue;
    Layer shell;  // whatever came through keeps the rules
    shell.erased = other->erased;
    REQUIRE(check_layer(shell));
    for (std::size_t i = 0; i < other->blocks.size(); ++i) {
      const format::BlobPointer blob = other->blocks[i].blob();
      REQUIRE(blob.offset + blob.stored_bytes <= blocks_end);
      REQUIRE((i == 0 || other->last_key(i - 1) < other->last_key(i)));
    }
  }
}

TEST_CASE("a footer leads right below itself or nowhere") {
  const format::BlobPointer index{
      .offset = 4096, .stored_bytes = 1000, .plain_bytes = 2000, .codec = Codec::zstd};
  const u64 footer_offset = format::align_piece(4096 + 1000);
  const TableFooter footer = encode_table_footer(index);
  const Result<format::BlobPointer> decoded = decode_table_footer(footer, footer_offset);
  REQUIRE(decoded);
  CHECK(*decoded == index);
  CHECK(!decode_table_footer(footer, footer_offset + 16));
  CHECK(!decode_table_footer(footer, footer_offset - 16));
  const auto refused = [&](auto change) {
    TableFooter bad = footer;
    change(bad);
    return !decode_table_footer(bad, footer_offset);
  };
  CHECK(refused([](TableFooter& f) { f.index_offset = 4095; }));
  CHECK(refused([](TableFooter& f) { f.index_offset = ~u64{15}; }));
  CHECK(refused([](TableFooter& f) { f.index_stored_bytes = ~u32{0}; }));
  CHECK(refused([](TableFooter& f) { f.index_plain_bytes = format::kBlobBytesMax + 1; }));
  CHECK(refused([](TableFooter& f) { f.index_codec = 2; }));
}

}  // namespace zerofs::lsm::test
