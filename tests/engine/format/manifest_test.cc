// Goal: a manifest comes back as it went in, under its own version and database only. Method:
// pinned bytes, seeded random manifests, truncation, bit flips, hand-made impossible records.
#include "engine/format/manifest.h"

#include <doctest/doctest.h>

#include "engine/format/manifest_plain.h"
#include "engine/format/trailer.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

Manifest small_manifest() {
  Manifest out;
  out.version = 300;
  out.database = kDatabase;
  out.created_unix_seconds = 1'000'000'000;
  out.last_term = {3};
  out.terms.push_back({.term = {2},
                       .salt = kSalt,
                       .replay_from = 7,
                       .end = 9,
                       .closed_cleanly = true,
                       .owner = {}});
  out.terms.push_back({.term = {3},
                       .salt = counting<16>(0),
                       .replay_from = 0,
                       .end = {},
                       .owner = {"host", "machine", "boot", "4026531836", 42, 99, 1'000'000'001,
                                 "server"}});
  out.levels = {{{.id = {{2}, 5},
                  .object_bytes = 4096,
                  .entries = 10,
                  .erased_ranges = 1,
                  .meta_entries = 2,
                  .first_key = "a",
                  .last_key = "b"}},
                {}};
  return out;
}

}  // namespace

TEST_CASE("a manifest is pinned, before sealing and after") {
  const Manifest manifest = small_manifest();
  CHECK(to_hex(encode_manifest_plain(manifest)) ==
        "ac02" "202122232425262728292a2b2c2d2e2f" "8094ebdc03" "03"
        "02"
        "02" "303132333435363738393a3b3c3d3e3f" "07" "03" "09" "0000000000000000"
        "03" "000102030405060708090a0b0c0d0e0f" "00" "00"
        "04" "686f7374" "07" "6d616368696e65" "04" "626f6f74" "0a" "34303236353331383336"
        "2a" "63" "8194ebdc03" "06" "736572766572"
        "02" "01" "02" "05" "8020" "0a" "01" "02" "0161" "0162" "00");
  // What zstd 1.5 made of it; other versions may write other bytes, but must read these.
  const auto pinned = from_hex(
      "505152535455565758595a5b5c5d5e5f6061626364656667f165ee34a7b93130291c6d097167c5dd444e"
      "bdbaf966112dc4337a832a34b3e4add18092a59b1e9aa74df56b5dff998a0d5d21a87ff16eb625d8baf5"
      "6b90d8de571195f04169f5f5d11cc8f02474bd25b31b6f0809aebb755d78903148993f4d1d754c83678e"
      "229338ce5fd2c700997ea4ec149bd7ad548890f983550afd7f262eefcedcb9494e2b1c4e4ed17c09b166"
      "1f941f4f19a14ece2b50fc2b7bb116387cc501000000000000007a66732d6d616e0a");
  CHECK(decode_manifest(keys(), 300, pinned) == manifest);
}

TEST_CASE("random manifests round-trip") {
  for (u64 seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const Manifest manifest = random_manifest(rng);
    REQUIRE(decode_manifest_plain(encode_manifest_plain(manifest)) == manifest);
    REQUIRE(decode_manifest(keys(), manifest.version, encode_manifest(keys(), manifest, kNonce)) ==
            manifest);
  }
}

TEST_CASE("a manifest opens as its own version of its own database only") {
  const Buffer object = encode_manifest(keys(), small_manifest(), kNonce);
  CHECK(decode_manifest(keys(), 300, object));
  CHECK_FALSE(decode_manifest(keys(), 301, object));
  CHECK_FALSE(decode_manifest(DatabaseKeys(kDataKey, counting<16>(0)), 300, object));
  CHECK_FALSE(decode_manifest(DatabaseKeys(counting<32>(1), kDatabase), 300, object));
  CHECK_FALSE(decode_fence(keys(), object, {0}, {0}));
  Buffer newer = Buffer::copy_of(object);
  newer.data()[newer.size() - 16] = std::byte{9};
  CHECK(decode_manifest(keys(), 300, newer).error().code() == Code::invalid);
}

TEST_CASE("damage of a sealed manifest is an error") {
  const Buffer object = encode_manifest(keys(), small_manifest(), kNonce);
  for (std::size_t size = 0; size < object.size(); ++size) {
    REQUIRE_FALSE(decode_manifest(keys(), 300, object.bytes().first(size)));
    REQUIRE_FALSE(decode_manifest(keys(), 300, object.bytes().last(size)));
  }
  for (std::size_t bit = 0; bit < object.size() * 8; ++bit) {
    Buffer broken = Buffer::copy_of(object);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    REQUIRE_FALSE(decode_manifest(keys(), 300, broken));
  }
}

TEST_CASE("the plain decoder is total") {
  std::vector<std::byte> plain = encode_manifest_plain(small_manifest());
  for (std::size_t size = 0; size < plain.size(); ++size) {
    REQUIRE_FALSE(decode_manifest_plain(Bytes(plain).first(size)));
  }
  for (std::size_t bit = 0; bit < plain.size() * 8; ++bit) {
    auto broken = plain;
    broken[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const Result<Manifest> decoded = decode_manifest_plain(broken);
    if (decoded) REQUIRE(decode_manifest_plain(encode_manifest_plain(*decoded)) == *decoded);
  }
  plain.push_back(std::byte{0});
  CHECK_FALSE(decode_manifest_plain(plain));
}

TEST_CASE("impossible records are refused") {
  const auto refused = [](const Manifest& manifest) {
    return !decode_manifest_plain(encode_manifest_plain(manifest));
  };
  Manifest wrong = small_manifest();
  CHECK_FALSE(refused(wrong));
  wrong.terms[1].term = {2};  // twice
  CHECK(refused(wrong));
  wrong.terms[1].term = {1};  // decreasing
  CHECK(refused(wrong));
  wrong = small_manifest();
  wrong.last_term = {2};  // below one that is listed
  CHECK(refused(wrong));
  wrong.last_term = {u64{1} << lsm::kTermBits};
  CHECK(refused(wrong));
  wrong = small_manifest();
  wrong.terms[0].end = 6;  // before its replay point
  CHECK(refused(wrong));
  wrong.terms[0].end = u64{1} << lsm::kNumberBits;  // no name has room for it
  CHECK(refused(wrong));
  wrong = small_manifest();
  wrong.levels[0][0].first_key = "c";
  CHECK(refused(wrong));
  wrong = small_manifest();
  wrong.levels[0][0].id.number = u64{1} << 40;
  CHECK(refused(wrong));
  wrong.levels[0][0].id = {{u64{1} << 24}, 1};
  CHECK(refused(wrong));
  wrong = small_manifest();
  wrong.levels.resize(65);
  CHECK(refused(wrong));
}

}  // namespace zerofs::format
