#include "engine/format/key_slot.h"

#include <sodium.h>

#include "engine/base/wire.h"

namespace zerofs::format {

namespace {

constexpr char kSlotMagic[8] = {'z', 'f', 's', '-', 'k', 'e', 'y', '1'};
constexpr u64 kMemoryBytesMax = kGiB;
constexpr u64 kPassesMax = 64;
constexpr std::size_t kKeyFileBytesMin = 32;

struct SlotHeader {
  char magic[8];
  Le<u32> format;
  Le<u8> kind;  // KeyMaterial::Kind
  std::byte reserved[3];
  Le<u64> slot;
  Le<u64> memory_bytes;
  Le<u64> passes;
  std::byte salt[16];
  std::byte nonce[24];
};
static_assert(sizeof(SlotHeader) == 80);

constexpr std::size_t kWrappedBytes = 16 + 32 + 16;  // database id, data key, tag

// The key that wraps the data key; on the stack of its user, who wipes it.
Result<> derive(const KeyMaterial& material, const SlotHeader& header, unsigned char out[32]) {
  const auto* secret = reinterpret_cast<const unsigned char*>(material.secret.data());
  if (material.kind == KeyMaterial::Kind::key_file) {
    if (material.secret.size() < kKeyFileBytesMin) {
      return invalid("a key file must hold at least 32 bytes; this one has",
                     material.secret.size());
    }
    crypto_generichash(out, 32, secret, material.secret.size(),
                       reinterpret_cast<const unsigned char*>(header.salt), sizeof header.salt);
    return {};
  }
  if (material.secret.empty()) return invalid("the password is empty");
  const int derived = crypto_pwhash(
      out, 32, reinterpret_cast<const char*>(secret), material.secret.size(),
      reinterpret_cast<const unsigned char*>(header.salt), header.passes, header.memory_bytes,
      crypto_pwhash_ALG_ARGON2ID13);
  if (derived != 0) return fail(Code::no_space, "not enough memory to check the password");
  return {};
}

}  // namespace

Result<Buffer> encode_key_slot(const KeyMaterial& material, const DataKey& data_key, u64 slot,
                               KdfParameters parameters, Random& random) {
  SlotHeader header{};
  std::memcpy(header.magic, kSlotMagic, sizeof kSlotMagic);
  header.format = kFormatVersion;
  header.kind = static_cast<u8>(material.kind);
  header.slot = slot;
  header.memory_bytes = parameters.memory_bytes;
  header.passes = parameters.passes;
  random.fill(header.salt);
  random.fill(header.nonce);

  unsigned char wrapping[32];
  TRY_VOID(derive(material, header, wrapping));
  unsigned char plain[48];
  std::memcpy(plain, data_key.database.data(), 16);
  std::memcpy(plain + 16, data_key.key.data(), 32);
  Buffer out(sizeof header + kWrappedBytes);
  std::memcpy(out.data(), &header, sizeof header);
  // The whole header is associated data, so nothing in it can be changed or moved to another slot.
  crypto_aead_xchacha20poly1305_ietf_encrypt(
      reinterpret_cast<unsigned char*>(out.data() + sizeof header), nullptr, plain, sizeof plain,
      reinterpret_cast<const unsigned char*>(&header), sizeof header, nullptr,
      reinterpret_cast<const unsigned char*>(header.nonce), wrapping);
  sodium_memzero(wrapping, sizeof wrapping);
  sodium_memzero(plain, sizeof plain);
  return out;
}

Result<DataKey> decode_key_slot(const KeyMaterial& material, u64 slot, Bytes object) {
  if (object.size() != sizeof(SlotHeader) + kWrappedBytes) return corrupt("key slot: wrong length");
  const auto header = struct_from<SlotHeader>(object);
  if (std::memcmp(header.magic, kSlotMagic, sizeof kSlotMagic) != 0) {
    return corrupt("key slot: not a key slot");
  }
  if (header.format > kFormatVersion) return invalid("key slot: of a newer ZeroFS, format",
                                                     header.format);
  if (header.slot != slot) return corrupt("key slot: of another number");
  if (header.kind > 1 || header.memory_bytes > kMemoryBytesMax || header.passes > kPassesMax) {
    return corrupt("key slot: impossible parameters");
  }
  if (header.kind != static_cast<u8>(material.kind)) {
    return material.kind == KeyMaterial::Kind::password
               ? invalid("this database is locked with a key file, not a password: give --key-file")
               : invalid("this database is locked with a password, not a key file");
  }
  unsigned char wrapping[32];
  TRY_VOID(derive(material, header, wrapping));
  unsigned char plain[48];
  const int opened = crypto_aead_xchacha20poly1305_ietf_decrypt(
      plain, nullptr, nullptr,
      reinterpret_cast<const unsigned char*>(object.data() + sizeof header), kWrappedBytes,
      reinterpret_cast<const unsigned char*>(object.data()), sizeof header,
      reinterpret_cast<const unsigned char*>(header.nonce), wrapping);
  sodium_memzero(wrapping, sizeof wrapping);
  if (opened != 0) return fail(Code::denied, "wrong password or key");
  DataKey out;
  std::memcpy(out.database.data(), plain, 16);
  std::memcpy(out.key.data(), plain + 16, 32);
  sodium_memzero(plain, sizeof plain);
  return out;
}

}  // namespace zerofs::format
