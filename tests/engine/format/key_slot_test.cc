// Goal: the data key comes back for the right password or key file and for nothing else. Method:
// pinned slots (cheap Argon2id parameters), wrong material, truncation, bit flips.
#include "engine/format/key_slot.h"

#include <doctest/doctest.h>

#include "engine/format/trailer.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

constexpr KdfParameters kCheap{.memory_bytes = 8 * kKiB, .passes = 1};

KeyMaterial password(std::string_view text) {
  return {KeyMaterial::Kind::password, Buffer::copy_of(bytes_of(text))};
}
KeyMaterial key_file(u8 first, std::size_t size = 32) {
  const auto bytes = counting<64>(first);
  return {KeyMaterial::Kind::key_file, Buffer::copy_of(Bytes(bytes).first(size))};
}
const DataKey kWrapped{.database = kDatabase, .key = kDataKey};

Buffer make_slot(const KeyMaterial& material, u64 slot = 7) {
  CountingRandom random(0x60);
  Result<Buffer> object = encode_key_slot(material, kWrapped, slot, kCheap, random);
  REQUIRE(object);
  CHECK(object->size() == 152);
  return std::move(*object);
}
Code error_of(const Result<DataKey>& result) {
  REQUIRE_FALSE(result);
  return result.error().code();
}

}  // namespace

TEST_CASE("key slots are pinned") {
  CHECK(to_hex(make_slot(key_file(1))) == 
        "0000000000000000070000000000000000000000000000000000000000000000606162636465666768696a6b"
        "6c6d6e6f707172737475767778797a7b7c7d7e7f80818283848586879cb4776f3557a7a203af1907ea7869b6"
        "f61a42a8254faaf434d58dd4584cf6bbf69934d48e93edb490712659e375c89e2c0519ebfd2f8787cb3ba7e3"
        "f17ceab301000000000000007a66732d6b65790a");
  CHECK(to_hex(make_slot(password("correct horse"))) == 
        "0100000000000000070000000000000000200000000000000100000000000000606162636465666768696a6b"
        "6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868763e3807cf0b54c17570067d3a7c5e3e8"
        "232e81b29d9203aaebdd7503976c439d89da4055f575ba62a1eb33f59ab684971dec6cfc39d2827d95bf6515"
        "ecf5733401000000000000007a66732d6b65790a");
}

TEST_CASE("the right material opens a slot, everything else says why not") {
  const Buffer by_password = make_slot(password("correct horse"));
  const Buffer by_file = make_slot(key_file(1));
  for (const auto& [material, object] :
       {std::pair(password("correct horse"), by_password.bytes()),
        std::pair(key_file(1), by_file.bytes())}) {
    const Result<DataKey> got = decode_key_slot(material, 7, object);
    REQUIRE(got);
    CHECK(got->database == kDatabase);
    CHECK(got->key == kDataKey);
  }
  CHECK(error_of(decode_key_slot(password("correct hors"), 7, by_password)) == Code::denied);
  CHECK(error_of(decode_key_slot(password("correct horse "), 7, by_password)) == Code::denied);
  CHECK(error_of(decode_key_slot(key_file(2), 7, by_file)) == Code::denied);
  CHECK(error_of(decode_key_slot(key_file(1, 33), 7, by_file)) == Code::denied);
  CHECK(error_of(decode_key_slot(key_file(1), 7, by_password)) == Code::invalid);
  CHECK(error_of(decode_key_slot(password("correct horse"), 7, by_file)) == Code::invalid);
  CHECK(error_of(decode_key_slot(key_file(1), 8, by_file)) == Code::corrupt);
}

TEST_CASE("impossible material and parameters are invalid") {
  CountingRandom random(0);
  const auto code = [&](const KeyMaterial& material, KdfParameters parameters) {
    const Result<Buffer> object = encode_key_slot(material, kWrapped, 1, parameters, random);
    REQUIRE_FALSE(object);
    return object.error().code();
  };
  CHECK(code(key_file(1, 31), kCheap) == Code::invalid);
  CHECK(code(key_file(1, 0), kCheap) == Code::invalid);
  CHECK(code(password(""), kCheap) == Code::invalid);
  CHECK(code(password("x"), {.memory_bytes = 8 * kKiB - 1, .passes = 1}) == Code::invalid);
  CHECK(code(password("x"), {.memory_bytes = kGiB + 1, .passes = 1}) == Code::invalid);
  CHECK(code(password("x"), {.memory_bytes = 8 * kKiB, .passes = 0}) == Code::invalid);
  CHECK(code(password("x"), {.memory_bytes = 8 * kKiB, .passes = 65}) == Code::invalid);
  CHECK(error_of(decode_key_slot(key_file(1, 31), 7, make_slot(key_file(1)))) == Code::invalid);
}

TEST_CASE("any damage is an error, and costs no more than the caps") {
  const Buffer object = make_slot(key_file(1));
  const Buffer other = make_slot(password("correct horse"));
  for (std::size_t size = 0; size < object.size(); ++size) {
    REQUIRE(error_of(decode_key_slot(key_file(1), 7, object.bytes().first(size))) == Code::corrupt);
    REQUIRE(error_of(decode_key_slot(key_file(1), 7, object.bytes().last(size))) == Code::corrupt);
  }
  for (std::size_t bit = 0; bit < object.size() * 8; ++bit) {
    Buffer broken = Buffer::copy_of(object);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    REQUIRE_FALSE(decode_key_slot(key_file(1), 7, broken));
    // Flips of the parameters that stay below the caps but make Argon2id slow are left out here.
    if (bit / 8 >= 16 && bit / 8 < 32) continue;
    broken = Buffer::copy_of(other);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    REQUIRE_FALSE(decode_key_slot(password("correct horse"), 7, broken));
  }
  const auto with = [&](std::size_t at, u8 value) {
    Buffer changed = Buffer::copy_of(other);
    changed.data()[at] = static_cast<std::byte>(value);
    return error_of(decode_key_slot(password("correct horse"), 7, changed));
  };
  CHECK(with(20, 1) == Code::corrupt);    // 4 GiB of memory
  CHECK(with(17, 0x10) == Code::corrupt); // 4 KiB
  CHECK(with(24, 0) == Code::corrupt);    // no pass
  CHECK(with(24, 65) == Code::corrupt);
  CHECK(with(24, 2) == Code::denied);     // two passes: another key
  CHECK(with(17, 0x28) == Code::denied);  // more memory: another key
  CHECK(with(0, 2) == Code::corrupt);     // an unknown kind
}

TEST_CASE("a newer slot and another object are told apart") {
  Buffer object = make_slot(key_file(1));
  object.data()[136] = std::byte{2};
  CHECK(error_of(decode_key_slot(key_file(1), 7, object)) == Code::invalid);
  Rng rng(1);
  const Buffer fence = encode_fence(keys(), {{1}, {2}, {3}}, kNonce);
  CHECK(error_of(decode_key_slot(key_file(1), 7, fence)) == Code::corrupt);
  CHECK(error_of(decode_key_slot(key_file(1), 7, {})) == Code::corrupt);
}

TEST_CASE("secrets move, copy on demand, and are wiped") {
  KeyMaterial material = password("hunter2");
  const KeyMaterial copy = material.copy();
  CHECK(text_of(copy.secret) == "hunter2");
  const std::byte* where = material.secret.data();
  KeyMaterial moved = std::move(material);
  CHECK(moved.secret.data() == where);
  moved = password("another");
  CHECK(text_of(moved.secret) == "another");
}

}  // namespace zerofs::format
