#include "engine/format/cipher.h"

#include <openssl/evp.h>
#include <sodium.h>
#include <sys/mman.h>

#include "engine/base/wire.h"

namespace zerofs::format {

namespace {

const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}
unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

constexpr u32 kTagBytes = 16;

// What a sealed piece is bound to besides its nonce.
std::vector<std::byte> associated_data(u8 kind, const DatabaseId& database, std::string_view name,
                                       Codec codec, u32 plain_bytes) {
  Writer out;
  out.put<u32>(kFormatVersion);
  out.put<u8>(kind);
  out.put<u8>(static_cast<u8>(codec));
  out.put<u32>(plain_bytes);
  out.put_raw(database);
  out.put_text(name);
  return out.take();
}

}  // namespace

// ---- keys

struct DatabaseKeys::Secrets {
  Key pieces;
  Key manifests;
  Key fences;
};

DatabaseKeys::DatabaseKeys(const Key& data_key, const DatabaseId& database) : database_(database) {
  INVARIANT(sodium_init() >= 0);
  // Guard pages, locked when the limits allow, left out of core files, wiped when freed.
  secrets_ = static_cast<Secrets*>(sodium_malloc(sizeof(Secrets)));
  INVARIANT(secrets_ != nullptr);
  Key* const keys[] = {&secrets_->pieces, &secrets_->manifests, &secrets_->fences};
  for (u64 i = 0; i < std::size(keys); ++i) {
    crypto_kdf_derive_from_key(raw(keys[i]->data()), keys[i]->size(), i + 1, "zerofs01",
                               raw(data_key.data()));
  }
}

DatabaseKeys::~DatabaseKeys() { sodium_free(secrets_); }
const Key& DatabaseKeys::pieces() const { return secrets_->pieces; }
const Key& DatabaseKeys::manifests() const { return secrets_->manifests; }
const Key& DatabaseKeys::fences() const { return secrets_->fences; }

// ---- pieces

struct ObjectCipher::Impl {
  ~Impl() {
    EVP_CIPHER_CTX_free(sealing);
    EVP_CIPHER_CTX_free(opening);
    sodium_memzero(subkey, sizeof subkey);
  }
  // A context that knows the subkey: later calls set only the nonce.
  EVP_CIPHER_CTX* context(bool encrypt) {
    EVP_CIPHER_CTX*& slot = encrypt ? sealing : opening;
    if (slot != nullptr) return slot;
    slot = EVP_CIPHER_CTX_new();
    INVARIANT(slot != nullptr);
    static EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);
    INVARIANT(cipher != nullptr);
    INVARIANT(EVP_CipherInit_ex2(slot, cipher, subkey, nullptr, encrypt ? 1 : 0, nullptr) == 1);
    return slot;
  }

  unsigned char subkey[32];
  std::array<std::byte, 4> random;
  DatabaseId database;
  std::string name;
  EVP_CIPHER_CTX* sealing = nullptr;
  EVP_CIPHER_CTX* opening = nullptr;
};

ObjectCipher::ObjectCipher(const DatabaseKeys& keys, const Salt& salt, std::string object_name,
                           std::array<std::byte, 4> random)
    : impl_(std::make_unique<Impl>()) {
  impl_->random = random;
  impl_->database = keys.database();
  impl_->name = std::move(object_name);

  // The object's half of the nonce, and the subkey that it selects.
  unsigned char prefix[16];
  crypto_generichash_state state;
  crypto_generichash_init(&state, raw(keys.pieces().data()), keys.pieces().size(), sizeof prefix);
  crypto_generichash_update(&state, raw(salt.data()), salt.size());
  crypto_generichash_update(&state, reinterpret_cast<const unsigned char*>(impl_->name.data()),
                            impl_->name.size());
  crypto_generichash_final(&state, prefix, sizeof prefix);
  crypto_core_hchacha20(impl_->subkey, prefix, raw(keys.pieces().data()), nullptr);
}

ObjectCipher::~ObjectCipher() = default;
ObjectCipher::ObjectCipher(ObjectCipher&&) noexcept = default;

namespace {
// The inner nonce of XChaCha20-Poly1305: 4 zero bytes, then the last 8 of the 24.
void fill_nonce(unsigned char nonce[12], const std::byte* random4, u64 offset) {
  INVARIANT(offset % kPieceAlignment == 0 && offset / kPieceAlignment <= UINT32_MAX);
  std::memset(nonce, 0, 4);
  std::memcpy(nonce + 4, random4, 4);
  const Le<u32> ordinal = static_cast<u32>(offset / kPieceAlignment);
  std::memcpy(nonce + 8, ordinal.raw, 4);
}

// AAD on the stack: this runs once per 4 KiB.
struct PieceAad {
  PieceAad(PieceKind kind, const DatabaseId& database, const std::string& name, Codec codec,
           u32 plain_bytes) {
    INVARIANT(name.size() <= 200);
    const Le<u32> version = kFormatVersion;
    const Le<u32> plain = plain_bytes;
    add(version.raw, 4);
    bytes[size++] = static_cast<unsigned char>(kind);
    bytes[size++] = static_cast<unsigned char>(codec);
    add(plain.raw, 4);
    add(database.data(), database.size());
    bytes[size++] = static_cast<unsigned char>(name.size() < 128 ? name.size() : 0x80 | (name.size() & 0x7f));
    if (name.size() >= 128) bytes[size++] = static_cast<unsigned char>(name.size() >> 7);
    add(name.data(), name.size());
  }
  void add(const void* from, std::size_t count) {
    std::memcpy(bytes + size, from, count);
    size += static_cast<int>(count);
  }
  unsigned char bytes[256];
  int size = 0;
};
}  // namespace

void ObjectCipher::seal(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes input,
                        MutableBytes out) {
  INVARIANT(out.size() == input.size() + kSealOverhead);
  EVP_CIPHER_CTX* context = impl_->context(true);
  unsigned char nonce[12];
  fill_nonce(nonce, impl_->random.data(), offset);
  std::memcpy(out.data(), impl_->random.data(), 4);
  const PieceAad aad(kind, impl_->database, impl_->name, codec, plain_bytes);
  unsigned char* to = raw(out.data()) + 4;
  int count = 0;
  bool ok = EVP_CipherInit_ex2(context, nullptr, nullptr, nonce, 1, nullptr) == 1;
  ok = ok && EVP_CipherUpdate(context, nullptr, &count, aad.bytes, aad.size) == 1;
  ok = ok && EVP_CipherUpdate(context, to, &count, raw(input.data()),
                              static_cast<int>(input.size())) == 1;
  ok = ok && EVP_CipherFinal_ex(context, to + input.size(), &count) == 1;
  ok = ok && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, to + input.size()) == 1;
  INVARIANT(ok);
}

Result<> ObjectCipher::open(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes sealed,
                            MutableBytes out) {
  if (sealed.size() < kSealOverhead || offset % kPieceAlignment != 0 ||
      offset / kPieceAlignment > UINT32_MAX) {
    return corrupt("sealed piece: impossible size or place", offset);
  }
  INVARIANT(out.size() == sealed.size() - kSealOverhead);
  EVP_CIPHER_CTX* context = impl_->context(false);
  unsigned char nonce[12];
  fill_nonce(nonce, sealed.data(), offset);
  const PieceAad aad(kind, impl_->database, impl_->name, codec, plain_bytes);
  const unsigned char* from = raw(sealed.data()) + 4;
  unsigned char tag[kTagBytes];
  std::memcpy(tag, from + out.size(), kTagBytes);
  int count = 0;
  bool ok = EVP_CipherInit_ex2(context, nullptr, nullptr, nonce, 0, nullptr) == 1;
  ok = ok && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag) == 1;
  ok = ok && EVP_CipherUpdate(context, nullptr, &count, aad.bytes, aad.size) == 1;
  ok = ok && EVP_CipherUpdate(context, raw(out.data()), &count, from,
                              static_cast<int>(out.size())) == 1;
  unsigned char rest[kTagBytes];
  ok = ok && EVP_CipherFinal_ex(context, rest, &count) == 1;
  if (!ok) return corrupt("sealed piece: authentication failed at offset", offset);
  return {};
}

// ---- objects sealed whole

Buffer seal_whole(const Key& key, u8 kind, const DatabaseId& database, std::string_view object_name,
                  Bytes nonce24, Bytes plain) {
  INVARIANT(nonce24.size() == crypto_aead_xchacha20poly1305_ietf_NPUBBYTES && kind >= 16);
  const std::vector<std::byte> aad =
      associated_data(kind, database, object_name, Codec::raw, static_cast<u32>(plain.size()));
  Buffer out(nonce24.size() + plain.size() + kTagBytes);
  std::memcpy(out.data(), nonce24.data(), nonce24.size());
  crypto_aead_xchacha20poly1305_ietf_encrypt(raw(out.data() + nonce24.size()), nullptr,
                                             raw(plain.data()), plain.size(), raw(aad.data()),
                                             aad.size(), nullptr, raw(out.data()), raw(key.data()));
  return out;
}

Result<Buffer> open_whole(const Key& key, u8 kind, const DatabaseId& database,
                          std::string_view object_name, Bytes sealed) {
  constexpr std::size_t kNonceBytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
  if (sealed.size() < kNonceBytes + kTagBytes) return corrupt("sealed object: too short");
  const std::size_t plain_bytes = sealed.size() - kNonceBytes - kTagBytes;
  if (plain_bytes > UINT32_MAX) return corrupt("sealed object: too long");
  const std::vector<std::byte> aad =
      associated_data(kind, database, object_name, Codec::raw, static_cast<u32>(plain_bytes));
  Buffer out(plain_bytes);
  const int opened = crypto_aead_xchacha20poly1305_ietf_decrypt(
      raw(out.data()), nullptr, nullptr, raw(sealed.data() + kNonceBytes),
      sealed.size() - kNonceBytes, raw(aad.data()), aad.size(), raw(sealed.data()),
      raw(key.data()));
  if (opened != 0) return corrupt("sealed object: authentication failed");
  return out;
}

}  // namespace zerofs::format
