// Goal: sealing is XChaCha20-Poly1305 exactly as FORMAT.md says, and a piece opens at its own place
// only. Method: libsodium as the reference, built from the document and not from our code.
#include "engine/format/cipher.h"

#include <doctest/doctest.h>
#include <sodium.h>

#include <cstdio>
#include <cstring>

#include "engine/base/wire.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

struct Place {
  PieceKind kind;
  u64 offset;
  Codec codec;
  u32 plain_bytes;
};

// FORMAT.md, "Sealed pieces", with libsodium's AEAD.
std::vector<std::byte> reference_seal(const Key& data_key, const DatabaseId& database,
                                      const Salt& salt, const std::string& name,
                                      const std::array<std::byte, 4>& random, const Place& place,
                                      Bytes plain) {
  unsigned char pieces_key[32];
  crypto_kdf_derive_from_key(pieces_key, 32, 1, "zerofs01", raw(data_key.data()));
  std::vector<std::byte> hashed(salt.begin(), salt.end());
  hashed.insert(hashed.end(), bytes_of(name).begin(), bytes_of(name).end());
  std::byte nonce[24];
  crypto_generichash(raw(nonce), 16, raw(hashed.data()), hashed.size(), pieces_key, 32);
  std::memcpy(nonce + 16, random.data(), 4);
  const u32 ordinal = static_cast<u32>(place.offset / 16);
  for (u32 i = 0; i < 4; ++i) nonce[20 + i] = static_cast<std::byte>(ordinal >> (8 * i));
  Writer aad;
  aad.put<u32>(1);
  aad.put<u8>(static_cast<u8>(place.kind));
  aad.put<u8>(static_cast<u8>(place.codec));
  aad.put<u16>(static_cast<u16>(name.size()));
  aad.put<u32>(place.plain_bytes);
  aad.put_raw(database);
  aad.put_raw(bytes_of(name));
  std::vector<std::byte> out(4 + plain.size() + 16);
  std::memcpy(out.data(), random.data(), 4);
  crypto_aead_xchacha20poly1305_ietf_encrypt(
      raw(out.data()) + 4, nullptr, raw(plain.data()), plain.size(), raw(aad.bytes().data()),
      aad.size(), nullptr, raw(nonce), pieces_key);
  return out;
}

}  // namespace

TEST_CASE("sealing agrees with libsodium's XChaCha20-Poly1305 for every kind of length") {
  Rng rng(1);
  const std::string name = log_name({3}, {77});
  ObjectCipher cipher(keys(), kSalt, name, kRandom);
  for (const std::size_t size : {0u, 1u, 15u, 16u, 17u, 63u, 64u, 65u, 255u, 256u, 1000u, 4095u,
                                 4096u, 12288u, 32767u, 32768u, 70000u}) {
    CAPTURE(size);
    const auto plain = make_content(rng, Content::noise, size);
    const Place place{static_cast<PieceKind>(1 + rng() % 6), (rng() & UINT32_MAX) * 16,
                      static_cast<Codec>(rng() % 2), static_cast<u32>(rng())};
    std::vector<std::byte> sealed(size + kSealOverhead);
    cipher.seal(place.kind, place.offset, place.codec, place.plain_bytes, plain, sealed);
    CHECK(sealed == reference_seal(kDataKey, kDatabase, kSalt, name, kRandom, place, plain));

    // In parts, and in place: the same bytes.
    std::vector<std::byte> again(sealed.size());
    const std::size_t cut = size / 3;
    const Bytes parts[] = {Bytes(plain).first(cut), {}, Bytes(plain).subspan(cut)};
    cipher.seal_parts(place.kind, place.offset, place.codec, place.plain_bytes, parts, again);
    CHECK(again == sealed);
    if (size != 0) std::memcpy(again.data() + kSealHeadBytes, plain.data(), size);
    cipher.seal(place.kind, place.offset, place.codec, place.plain_bytes,
                Bytes(again).subspan(kSealHeadBytes, size), again);
    CHECK(again == sealed);

    std::vector<std::byte> opened(size);
    ObjectCipher reader(keys(), kSalt, name);  // knows nothing of the random bytes
    REQUIRE(reader.open(place.kind, place.offset, place.codec, place.plain_bytes, sealed, opened));
    CHECK(opened == plain);
  }
}

TEST_CASE("a sealed piece is pinned") {
  ObjectCipher cipher(keys(), kSalt, log_name({1}, {2}), kRandom);
  std::vector<std::byte> sealed(3 + kSealOverhead);
  cipher.seal(PieceKind::layer, 4096, Codec::zstd, 7, bytes_of("abc"), sealed);
  CHECK(to_hex(sealed) == "40414243cf684ec98adced11c0044c20f28b0db996dfff");
}

TEST_CASE("a failed open leaves nothing behind, and the cipher goes on working") {
  ObjectCipher cipher(keys(), kSalt, "log/x", kRandom);
  const auto plain = counting<100>(1);
  std::vector<std::byte> sealed(plain.size() + kSealOverhead);
  cipher.seal(PieceKind::frame, 0, Codec::raw, 100, plain, sealed);
  for (std::size_t bit = 0; bit < sealed.size() * 8; ++bit) {
    auto broken = sealed;
    broken[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    std::vector<std::byte> out(plain.size(), std::byte{0x77});
    const Result<> opened = cipher.open(PieceKind::frame, 0, Codec::raw, 100, broken, out);
    REQUIRE_FALSE(opened);
    REQUIRE(opened.error().code() == Code::corrupt);
    REQUIRE(out == std::vector<std::byte>(plain.size()));
  }
  for (std::size_t size = 0; size < sealed.size(); ++size) {
    std::vector<std::byte> out(size < kSealOverhead ? 0 : size - kSealOverhead);
    REQUIRE_FALSE(
        cipher.open(PieceKind::frame, 0, Codec::raw, 100, Bytes(sealed).first(size), out));
  }
  CHECK_FALSE(cipher.open(PieceKind::frame, u64{1} << 36, Codec::raw, 100, sealed, {}));
  CHECK_FALSE(cipher.open(PieceKind::frame, 8, Codec::raw, 100, sealed, {}));
  std::vector<std::byte> out(plain.size());
  REQUIRE(cipher.open(PieceKind::frame, 0, Codec::raw, 100, sealed, out));
  CHECK(std::ranges::equal(out, plain));
}

TEST_CASE("swap matrix: no piece opens in another slot") {
  // All pieces have the same length, so that nothing but the binding tells them apart.
  struct Slot {
    ObjectCipher* cipher;
    Place place;
  };
  const Salt other_salt = counting<16>(0x31);
  const DatabaseKeys other_database(kDataKey, counting<16>(0x21));
  const DatabaseKeys other_key(counting<32>(0x01), kDatabase);
  ObjectCipher ciphers[] = {
      {keys(), kSalt, log_name({1}, {2}), kRandom},
      {keys(), kSalt, log_name({1}, {3}), kRandom},
      {keys(), kSalt, log_name({2}, {2}), kRandom},
      {keys(), other_salt, log_name({1}, {2}), kRandom},
      {keys(), kSalt, segment_name(lsm::pack_segment({1}, 2)), kRandom},
      {keys(), kSalt, table_name({{1}, 2}), kRandom},
      {other_database, kSalt, log_name({1}, {2}), kRandom},
      {other_key, kSalt, log_name({1}, {2}), kRandom},
  };
  std::vector<Slot> slots;
  for (ObjectCipher& cipher : ciphers) {
    for (u8 kind = 1; kind <= 6; ++kind) {
      for (const u64 offset : {u64{0}, u64{16}, u64{4128}, u64{UINT32_MAX} * 16}) {
        for (const Codec codec : {Codec::raw, Codec::zstd}) {
          for (const u32 plain_bytes : {64u, 4096u}) {
            slots.push_back({&cipher, {static_cast<PieceKind>(kind), offset, codec, plain_bytes}});
          }
        }
      }
    }
  }
  const auto plain = counting<64>(0);
  std::vector<std::vector<std::byte>> sealed;
  for (const Slot& slot : slots) {
    sealed.emplace_back(plain.size() + kSealOverhead);
    slot.cipher->seal(slot.place.kind, slot.place.offset, slot.place.codec, slot.place.plain_bytes,
                      plain, sealed.back());
  }
  u64 opened_count = 0;
  for (std::size_t to = 0; to < slots.size(); ++to) {
    for (std::size_t from = 0; from < slots.size(); ++from) {
      const Place& place = slots[to].place;
      std::byte out[64];
      const Result<> opened = slots[to].cipher->open(place.kind, place.offset, place.codec,
                                                     place.plain_bytes, sealed[from], out);
      if (opened) ++opened_count;
      if (opened.has_value() != (to == from)) FAIL("piece " << from << " in slot " << to);
    }
  }
  CHECK(opened_count == slots.size());
}

TEST_CASE("objects sealed whole open under their own name, kind, database and key only") {
  const auto plain = counting<50>(9);
  const Buffer sealed = seal_whole(keys().fences(), kFenceKind, kDatabase, "log/a", kNonce, plain);
  const Result<Buffer> opened = open_whole(keys().fences(), kFenceKind, kDatabase, "log/a", sealed);
  REQUIRE(opened);
  CHECK(std::ranges::equal(opened->bytes(), plain));
  CHECK_FALSE(open_whole(keys().manifests(), kFenceKind, kDatabase, "log/a", sealed));
  CHECK_FALSE(open_whole(keys().pieces(), kFenceKind, kDatabase, "log/a", sealed));
  CHECK_FALSE(open_whole(keys().fences(), kManifestKind, kDatabase, "log/a", sealed));
  CHECK_FALSE(open_whole(keys().fences(), kFenceKind, counting<16>(0), "log/a", sealed));
  CHECK_FALSE(open_whole(keys().fences(), kFenceKind, kDatabase, "log/b", sealed));
  CHECK_FALSE(open_whole(keys().fences(), kFenceKind, kDatabase, "log/aa", sealed));
  for (std::size_t size = 0; size < sealed.size(); ++size) {
    REQUIRE_FALSE(
        open_whole(keys().fences(), kFenceKind, kDatabase, "log/a", sealed.bytes().first(size)));
  }
  for (std::size_t bit = 0; bit < sealed.size() * 8; ++bit) {
    Buffer broken = Buffer::copy_of(sealed);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    REQUIRE_FALSE(open_whole(keys().fences(), kFenceKind, kDatabase, "log/a", broken));
  }
}

TEST_CASE("the keys of a database differ from each other and from the data key") {
  const Key all[] = {keys().pieces(), keys().manifests(), keys().fences(), kDataKey,
                     DatabaseKeys(counting<32>(1), kDatabase).pieces()};
  for (std::size_t i = 0; i < std::size(all); ++i) {
    for (std::size_t j = 0; j < i; ++j) CHECK(all[i] != all[j]);
  }
}

TEST_CASE("keys are left out of core files") {
  // Method: the kernel's flags ("dd": MADV_DONTDUMP) for the mapping that the keys lie in.
  const auto address = reinterpret_cast<std::uintptr_t>(keys().pieces().data());
  std::FILE* maps = std::fopen("/proc/self/smaps", "r");
  REQUIRE(maps != nullptr);
  char line[1024];
  bool inside = false;
  std::string flags;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long begin = 0;
    unsigned long long end = 0;
    char dash = 0;
    if (std::sscanf(line, "%llx%c%llx ", &begin, &dash, &end) == 3 && dash == '-') {
      inside = begin <= address && address < end;
    } else if (inside && std::strncmp(line, "VmFlags:", 8) == 0) {
      flags = line;
    }
  }
  std::fclose(maps);
  CAPTURE(flags);
  CHECK(flags.find(" dd ") != std::string::npos);
  CHECK(flags.find(" wr ") == std::string::npos);
}

}  // namespace zerofs::format
