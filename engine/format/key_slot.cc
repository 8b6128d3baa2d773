#include "engine/format/key_slot.h"

#include <sodium.h>

#include "engine/base/wire.h"
#include "engine/format/trailer.h"

namespace zerofs::format {

namespace {

unsigned char* to(MutableBytes bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
const unsigned char* from(Bytes bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

// All that lies in the clear; nothing of it can be changed without being noticed, because it is
// associated data, together with the trailer.
struct SlotHeader {
  Le<u8> kind;  // KeyMaterial::Kind
  std::byte zero[7];
  Le<u64> slot;
  Le<u64> memory_bytes;
  Le<u64> passes;
  std::array<std::byte, crypto_pwhash_SALTBYTES> salt;
};
struct SlotSecrets {
  DatabaseId database;
  Key key;
};
struct SlotLayout {
  SlotHeader header;
  std::array<std::byte, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES> nonce;
  std::array<std::byte, sizeof(SlotSecrets) + crypto_aead_xchacha20poly1305_ietf_ABYTES> sealed;
  Trailer trailer;
};
static_assert(sizeof(SlotHeader) == 48 && offsetof(SlotLayout, sealed) == 72);
static_assert(sizeof(SlotLayout) == 152 && alignof(SlotLayout) == 1);

struct SlotAad {
  SlotHeader header;
  Trailer trailer;
};
static_assert(sizeof(SlotAad) == 64 && alignof(SlotAad) == 1);

// The wrapping key; wiped at the end of its scope.
struct WrappingKey {
  Key key{};
  ~WrappingKey() { sodium_memzero(key.data(), key.size()); }
};

bool possible(const KdfParameters& parameters) {
  return parameters.memory_bytes >= kKdfMemoryBytesMin &&
         parameters.memory_bytes <= kKdfMemoryBytesMax && parameters.passes >= 1 &&
         parameters.passes <= kKdfPassesMax;
}

Result<> check_material(const KeyMaterial& material) {
  if (material.kind == KeyMaterial::Kind::key_file) {
    if (material.secret.size() < kKeyFileBytesMin) {
      return invalid("a key file must hold at least 32 bytes; this one has",
                     material.secret.size());
    }
  } else if (material.secret.empty()) {
    return invalid("the password is empty");
  }
  return {};
}

Result<> derive(const KeyMaterial& material, const SlotHeader& header, WrappingKey& out) {
  INVARIANT(sodium_init() >= 0);
  TRY_VOID(check_material(material));
  const Bytes secret = material.secret;
  if (material.kind == KeyMaterial::Kind::key_file) {
    crypto_generichash(to(out.key), out.key.size(), from(secret), secret.size(), from(header.salt),
                       header.salt.size());
    return {};
  }
  const int failed = crypto_pwhash(to(out.key), out.key.size(), text_of(secret).data(),
                                   secret.size(), from(header.salt), header.passes,
                                   header.memory_bytes, crypto_pwhash_ALG_ARGON2ID13);
  if (failed != 0) return fail(Code::no_space, "not enough memory to check the password");
  return {};
}

}  // namespace

void Secret::wipe() {
  if (capacity() != 0) sodium_memzero(data(), capacity());
}
DataKey::~DataKey() { sodium_memzero(key.data(), key.size()); }

Result<Buffer> encode_key_slot(const KeyMaterial& material, const DataKey& data_key, u64 slot,
                               KdfParameters parameters, Random& random) {
  const bool with_password = material.kind == KeyMaterial::Kind::password;
  if (with_password && !possible(parameters)) {
    return invalid("Argon2id: memory must be 8 KiB to 1 GiB, passes 1 to 64");
  }
  SlotLayout layout{};
  layout.header.kind = static_cast<u8>(material.kind);
  layout.header.slot = slot;
  layout.header.memory_bytes = with_password ? parameters.memory_bytes : 0;
  layout.header.passes = with_password ? parameters.passes : 0;
  layout.trailer = trailer_of(kKeySlotMagic);
  random.fill(layout.header.salt);
  random.fill(layout.nonce);

  WrappingKey wrapping;
  TRY_VOID(derive(material, layout.header, wrapping));
  SlotSecrets secrets{.database = data_key.database, .key = data_key.key};
  const SlotAad aad{layout.header, layout.trailer};
  crypto_aead_xchacha20poly1305_ietf_encrypt(
      to(layout.sealed), nullptr, from(struct_bytes(secrets)), sizeof secrets,
      from(struct_bytes(aad)), sizeof aad, nullptr, from(layout.nonce), from(wrapping.key));
  sodium_memzero(&secrets, sizeof secrets);
  return Buffer::copy_of(struct_bytes(layout));
}

Result<DataKey> decode_key_slot(const KeyMaterial& material, u64 slot, Bytes object) {
  TRY_VOID(check_trailer(object, kKeySlotMagic));
  if (object.size() != sizeof(SlotLayout)) return corrupt("key slot: wrong length", object.size());
  const auto layout = struct_from<SlotLayout>(object);
  const SlotHeader& header = layout.header;
  if (header.slot != slot) return corrupt("key slot: of another number", header.slot);
  const KdfParameters parameters{.memory_bytes = header.memory_bytes, .passes = header.passes};
  const bool with_password = header.kind == static_cast<u8>(KeyMaterial::Kind::password);
  const bool possible_header =
      with_password ? possible(parameters)
                    : header.kind == static_cast<u8>(KeyMaterial::Kind::key_file) &&
                          parameters.memory_bytes == 0 && parameters.passes == 0;
  if (!possible_header) return corrupt("key slot: impossible parameters");
  if (header.kind != static_cast<u8>(material.kind)) {
    return with_password
               ? invalid("this database is locked with a password, not a key file")
               : invalid("this database is locked with a key file, not a password: give --key-file");
  }
  WrappingKey wrapping;
  TRY_VOID(derive(material, header, wrapping));
  SlotSecrets secrets;
  const SlotAad aad{header, layout.trailer};
  const int failed = crypto_aead_xchacha20poly1305_ietf_decrypt(
      reinterpret_cast<unsigned char*>(&secrets), nullptr, nullptr, from(layout.sealed),
      layout.sealed.size(), from(struct_bytes(aad)), sizeof aad, from(layout.nonce),
      from(wrapping.key));
  if (failed != 0) return fail(Code::denied, "wrong password or key");
  const DataKey out{.database = secrets.database, .key = secrets.key};
  sodium_memzero(&secrets, sizeof secrets);
  return out;
}

}  // namespace zerofs::format
