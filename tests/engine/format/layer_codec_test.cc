// Goal: decode(encode(layer)) is the layer; every other byte string gives a sound layer or an error.
// Method: pinned bytes, seeded random layers, truncation, bit flips, hand-made bad input.
#include <doctest/doctest.h>

#include "engine/base/wire.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

bool refused(Bytes bytes) {
  const Result<lsm::Layer> layer = decode_layer(bytes);
  return !layer && layer.error().code() == Code::corrupt;
}

}  // namespace

TEST_CASE("an empty layer is five zero counts") {
  CHECK(to_hex(encode_layer({})) == "0000000000");
  const Result<lsm::Layer> layer = decode_layer(from_hex("0000000000"));
  REQUIRE(layer);
  CHECK(layer->empty());
}

TEST_CASE("a layer is pinned") {
  lsm::LayerBuilder builder;
  const lsm::SegmentId first = lsm::log_segment({1}, {2});
  const lsm::SegmentId second = lsm::pack_segment({1}, 3);
  builder.add_data({5}, 0, 0xff, first,
                   {.offset = 0, .stored_bytes = 8 * 4096 + 20, .page_count = 8});
  builder.add_data({5}, 0, 0x100, first,
                   {.offset = 32800, .stored_bytes = 1000, .first_page = 8, .codec = Codec::zstd});
  builder.add_data({5}, 1, 0x5000, second,
                   {.offset = 160, .stored_bytes = 3 * 4096 + 20, .first_page = 12, .page_count = 3});
  builder.add_empty({5}, 300, ~0u, lsm::RunKind::zero);
  builder.add_empty({9}, 7, 0x80000001, lsm::RunKind::hole);
  builder.erase({{5}, 10, 19, false});
  builder.erase({{5}, 30, 30, false});
  builder.erase({{6}, 0, kChunkIndexMax, true});
  builder.put_meta("volume/a", "1");
  builder.put_meta("volume/b", std::nullopt);
  const lsm::Layer layer = std::move(builder).build();
  const auto encoded = encode_layer(layer);
  CHECK(to_hex(encoded) ==
        "02" "05" "04"                     // objects 5, 9
        "02" "8280808080" "10" "81808080808080808001"  // segments
        "05"
        "00" "e0"                          // chunk 0, pages 0-7, raw, at the start
        "c0" "08" "e807"                   // same chunk, page 8, follows, zstd, 1000 bytes
        "34" "4c" "05" "01" "0a"           // next chunk, pages 12-14, two of them, elsewhere
        "09" "ab02"                        // chunk 300, zero, all pages
        "1e" "01" "07" "01000080"          // next object, chunk 7, hole, two pages
        "03" "05" "0a" "12" "00" "0b" "00" "01" "00" "ffffffffff3f"  // erased
        "02" "00" "08" "766f6c756d652f61" "02" "31" "07" "01" "62" "00");
  const Result<lsm::Layer> decoded = decode_layer(encoded);
  REQUIRE(decoded);
  CHECK(*decoded == layer);
}

TEST_CASE("random layers round-trip") {
  for (u64 seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    std::vector<lsm::SegmentId> segments;
    for (u64 n = rng() % 4; n != 0; --n) segments.push_back({rng()});
    const lsm::Layer layer = random_layer(rng, segments, static_cast<u32>(rng() % 200));
    REQUIRE(lsm::check_layer(layer));
    const Result<lsm::Layer> decoded = decode_layer(encode_layer(layer));
    REQUIRE(decoded);
    REQUIRE(*decoded == layer);
  }
}

TEST_CASE("cut or longer is refused; flips give a sound layer or an error") {
  for (u64 seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const lsm::Layer layer = random_layer(rng, {{7}, {1000}}, 30);
    std::vector<std::byte> bytes = encode_layer(layer);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      REQUIRE(refused(Bytes(bytes).first(size)));
    }
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      auto broken = bytes;
      broken[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      const Result<lsm::Layer> decoded = decode_layer(broken);
      if (!decoded) continue;
      REQUIRE(lsm::check_layer(*decoded));
      REQUIRE(decode_layer(encode_layer(*decoded)) == *decoded);
    }
    bytes.push_back(std::byte{0});
    REQUIRE(refused(bytes));
  }
}

TEST_CASE("random bytes never crash the decoder") {
  Rng rng(6);
  for (u32 i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes(rng() % 64);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng() % 4 == 0 ? rng() : rng() % 8);
    const Result<lsm::Layer> decoded = decode_layer(bytes);
    if (decoded) REQUIRE(decode_layer(encode_layer(*decoded)) == *decoded);
  }
}

TEST_CASE("hand-made bad layers are refused") {
  CHECK(refused(from_hex("ffffffffffffffffff01")));              // 2^64 - 1 objects
  CHECK(refused(from_hex("80808080808080808080")));              // a varint without end
  CHECK(refused(from_hex("00 00 ffffff7f 0000")));               // more entries than bytes
  CHECK(refused(from_hex("01 05 00 00 00 00")));                 // an object that nothing uses
  CHECK(refused(from_hex("00 01 05 00 00 00")));                 // a segment that nothing uses
  CHECK(refused(from_hex("00 00 01 01 00 00")));                 // an entry of no object
  CHECK(refused(from_hex("01 05 00 01 03 00 00")));              // run kind 3
  CHECK(refused(from_hex("01 05 00 01 00 00 00 00")));           // data of no segment
  CHECK_FALSE(refused(from_hex("01 05 00 01 01 00 00")));        // one zero run: the control
  CHECK(refused(from_hex("01 05 00 01 21 00 00")));              // a zero run with a place
  CHECK(refused(from_hex("01 05 00 01 11 00000000 00 00")));     // no pages
  CHECK(refused(from_hex("01 05 00 02 01 01 00 00")));           // the same pages twice
  CHECK(refused(from_hex("01 05 00 01 09 ffffffffff1f 01 00 00")));     // overlong chunk step
  CHECK(refused(from_hex("01 05 00 01 09 808080808020 00 00")));        // chunk beyond 2^40
  CHECK_FALSE(refused(from_hex("01 05 01 07 01 00 00 00 00")));  // one data run: the control
  CHECK_FALSE(refused(from_hex("01 05 01 07 01 00 3e 00 00")));  // pages 30 and 31 of two: control
  CHECK(refused(from_hex("01 05 01 07 01 00 3f 00 00")));        // page 32
  CHECK(refused(from_hex("01 05 01 07 01 10 00 02 00 00")));     // a mask beyond the frame
  CHECK(refused(from_hex("01 05 01 07 01 20 00 01 00 00 00")));  // segment 1 of 1
  CHECK(refused(from_hex("01 05 01 07 01 20 00 00 8080808010 00 00")));  // 64 GiB
  CHECK(refused(from_hex("01 05 01 07 01 80 00 808008 00 00")));         // stored 2^17
  CHECK(refused(from_hex("00 00 00 01 05 808080808020 00 00")));         // erased beyond 2^40
  CHECK(refused(from_hex("00 00 00 02 05 00 00 00 01 00 00")));          // neighbours not joined
  CHECK_FALSE(refused(from_hex("00 00 00 01 05 00 01 00")));     // a part of a whole object's range
  CHECK(refused(from_hex("00 00 00 00 01 01 00 00")));           // shares with no predecessor
  CHECK(refused(from_hex("00 00 00 00 02 00 01 61 00 02 00 00")));       // shares more than there is
  CHECK(refused(from_hex("00 00 00 00 02 00 01 62 00 00 01 61 00")));    // keys out of order
  CHECK(refused(from_hex("00 00 00 00 01 00 01 61 ffffffffffffffffff01")));  // a huge value
}

TEST_CASE("a log of random 4 KiB writes takes less than 10 bytes per run") {
  Rng rng(7);
  lsm::LayerBuilder builder;
  u64 offset = 0;
  const u32 runs = 4000;
  for (u32 i = 0; i < runs; ++i) {
    const u32 stored = static_cast<u32>(1500 + rng() % 1000);
    builder.add_data({1}, i * 60 + rng() % 60, 1u << i % 32, lsm::log_segment({1}, {1}),
                     {.offset = offset,
                      .stored_bytes = stored,
                      .first_page = static_cast<u8>(i % 32),
                      .codec = Codec::zstd});
    offset = align_piece(offset + stored);
  }
  const lsm::Layer layer = std::move(builder).build();
  CHECK(encode_layer(layer).size() < runs * 10);
}

}  // namespace zerofs::format
