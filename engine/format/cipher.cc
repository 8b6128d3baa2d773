#include "engine/format/cipher.h"

#include <openssl/evp.h>
#include <sodium.h>

#include <climits>

#include "engine/base/mutant.h"
#include "engine/base/wire.h"

// libsodium does what happens once per key or object; the bulk goes through OpenSSL, whose
// ChaCha20-Poly1305 is twice as fast. XChaCha20 needs of it only the subkey and the inner nonce
// (draft-irtf-cfrg-xchacha-03, section 2.3), so both make the same bytes; a test proves it.

namespace zerofs::format {

namespace {

const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}
unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }

constexpr u32 kTagBytes = 16;
constexpr u32 kNonceBytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
static_assert(kSealOverhead == kSealHeadBytes + kTagBytes);

// FORMAT.md, "Sealed pieces": AAD.
class AssociatedData {
 public:
  AssociatedData(const DatabaseId& database, std::string_view object_name) {
    INVARIANT(object_name.size() <= kObjectNameBytesMax);
    layout_.version = kFormatVersion;
    layout_.name_bytes = static_cast<u16>(object_name.size());
    layout_.database = database;
    std::memcpy(layout_.name, object_name.data(), object_name.size());
    const std::size_t named = MUTANT(no_name_in_aad) ? 0 : object_name.size();
    size_ = offsetof(Layout, name) + named;
  }
  void set(u8 kind, Codec codec, u32 plain_bytes) {
    layout_.kind = kind;
    layout_.codec = static_cast<u8>(codec);
    layout_.plain_bytes = plain_bytes;
  }
  const unsigned char* data() const { return reinterpret_cast<const unsigned char*>(&layout_); }
  std::size_t size() const { return size_; }

 private:
  struct Layout {
    Le<u32> version;
    Le<u8> kind;
    Le<u8> codec;
    Le<u16> name_bytes;
    Le<u32> plain_bytes;
    DatabaseId database;
    char name[kObjectNameBytesMax];
  };
  static_assert(offsetof(Layout, name) == 28 && alignof(Layout) == 1);

  Layout layout_;
  std::size_t size_;
};

const EVP_CIPHER* chacha20_poly1305() {
  static const EVP_CIPHER* const cipher =
      EVP_CIPHER_fetch(nullptr, "ChaCha20-Poly1305", nullptr);  // for the life of the process
  INVARIANT(cipher != nullptr);
  return cipher;
}

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }  // wipes it
};
enum class Direction : u8 { open, seal };

}  // namespace

// ---- keys

struct DatabaseKeys::Secrets {
  Key pieces;
  Key manifests;
  Key fences;
};

DatabaseKeys::DatabaseKeys(const Key& data_key, const DatabaseId& database) : database_(database) {
  INVARIANT(sodium_init() >= 0);
  // Between guard pages, locked as far as the limits allow, left out of core files (libsodium asks
  // for MADV_DONTDUMP), wiped when freed.
  secrets_ = static_cast<Secrets*>(sodium_malloc(sizeof(Secrets)));
  INVARIANT(secrets_ != nullptr);
  static_assert(sizeof data_key == crypto_kdf_KEYBYTES);
  Key* const keys[] = {&secrets_->pieces, &secrets_->manifests, &secrets_->fences};
  for (u64 i = 0; i < std::size(keys); ++i) {
    crypto_kdf_derive_from_key(raw(keys[i]->data()), keys[i]->size(), i + 1, "zerofs01",
                               raw(data_key.data()));
  }
  INVARIANT(sodium_mprotect_readonly(secrets_) == 0);
}

DatabaseKeys::~DatabaseKeys() { sodium_free(secrets_); }
const Key& DatabaseKeys::pieces() const { return secrets_->pieces; }
const Key& DatabaseKeys::manifests() const { return secrets_->manifests; }
const Key& DatabaseKeys::fences() const { return secrets_->fences; }

// ---- pieces

struct ObjectCipher::Impl {
  Impl(const DatabaseId& database, std::string_view object_name) : aad(database, object_name) {}
  ~Impl() { sodium_memzero(subkey, sizeof subkey); }

  // A context that holds the key; each piece sets only the inner nonce: four zero bytes, then the
  // last 8 of the 24. Null when OpenSSL refuses, which is a bug.
  EVP_CIPHER_CTX* begin(Direction direction, PieceKind kind, Codec codec, u32 plain_bytes,
                        const std::byte* random4, u64 offset) {
    auto& context = contexts[static_cast<u8>(direction)];
    const int encrypt = direction == Direction::seal ? 1 : 0;
    if (context == nullptr) {
      context.reset(EVP_CIPHER_CTX_new());
      INVARIANT(context != nullptr);
      INVARIANT(EVP_CipherInit_ex2(context.get(), chacha20_poly1305(), subkey, nullptr, encrypt,
                                   nullptr) == 1);
    }
    unsigned char nonce[12] = {};
    const Le<u32> ordinal =
        MUTANT(ordinal_repeats) ? 0 : static_cast<u32>(offset / kPieceAlignment);
    std::memcpy(nonce + 4, random4, 4);
    std::memcpy(nonce + 8, ordinal.raw, 4);
    aad.set(static_cast<u8>(kind), codec, plain_bytes);
    int count = 0;
    INVARIANT(EVP_CipherInit_ex2(context.get(), nullptr, nullptr, nonce, encrypt, nullptr) == 1);
    INVARIANT(EVP_CipherUpdate(context.get(), nullptr, &count, aad.data(),
                               static_cast<int>(aad.size())) == 1);
    return context.get();
  }

  unsigned char subkey[crypto_core_hchacha20_OUTPUTBYTES];
  std::array<std::byte, kSealHeadBytes> random;
  AssociatedData aad;
  std::unique_ptr<EVP_CIPHER_CTX, FreeContext> contexts[2];
};

ObjectCipher::ObjectCipher(const DatabaseKeys& keys, const Salt& salt, std::string object_name,
                           std::array<std::byte, 4> random)
    : impl_(std::make_unique<Impl>(keys.database(), object_name)) {
  impl_->random = random;
  // The object's 16 bytes of the nonce, and the subkey that they select.
  unsigned char prefix[crypto_core_hchacha20_INPUTBYTES];
  crypto_generichash_state state;
  crypto_generichash_init(&state, raw(keys.pieces().data()), keys.pieces().size(), sizeof prefix);
  crypto_generichash_update(&state, raw(salt.data()), salt.size());
  crypto_generichash_update(&state, raw(bytes_of(object_name).data()), object_name.size());
  crypto_generichash_final(&state, prefix, sizeof prefix);
  crypto_core_hchacha20(impl_->subkey, prefix, raw(keys.pieces().data()), nullptr);
}

ObjectCipher::~ObjectCipher() = default;
ObjectCipher::ObjectCipher(ObjectCipher&&) noexcept = default;

void ObjectCipher::seal(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes input,
                        MutableBytes out) {
  seal_parts(kind, offset, codec, plain_bytes, {&input, 1}, out);
}

void ObjectCipher::seal_parts(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes,
                              std::span<const Bytes> parts, MutableBytes out) {
  INVARIANT(offset % kPieceAlignment == 0 && offset / kPieceAlignment <= UINT32_MAX);
  INVARIANT(out.size() >= kSealOverhead && out.size() <= INT_MAX);
  std::memcpy(out.data(), impl_->random.data(), kSealHeadBytes);
  EVP_CIPHER_CTX* const context =
      impl_->begin(Direction::seal, kind, codec, plain_bytes, impl_->random.data(), offset);
  unsigned char* to = raw(out.data()) + kSealHeadBytes;
  std::size_t room = out.size() - kSealOverhead;
  int count = 0;
  for (const Bytes part : parts) {
    INVARIANT(part.size() <= room);
    INVARIANT(EVP_CipherUpdate(context, to, &count, raw(part.data()),
                               static_cast<int>(part.size())) == 1);
    to += part.size();
    room -= part.size();
  }
  INVARIANT(room == 0);
  INVARIANT(EVP_CipherFinal_ex(context, to, &count) == 1);
  INVARIANT(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, to) == 1);
}

Result<> ObjectCipher::open(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes sealed,
                            MutableBytes out) {
  if (sealed.size() < kSealOverhead || sealed.size() > INT_MAX || offset % kPieceAlignment != 0 ||
      offset / kPieceAlignment > UINT32_MAX) {
    return corrupt("sealed piece: impossible length or offset", offset);
  }
  INVARIANT(out.size() == sealed.size() - kSealOverhead);
  EVP_CIPHER_CTX* const context =
      impl_->begin(Direction::open, kind, codec, plain_bytes, sealed.data(), offset);
  const unsigned char* const from = raw(sealed.data()) + kSealHeadBytes;
  unsigned char tag[kTagBytes];
  std::memcpy(tag, from + out.size(), kTagBytes);
  int count = 0;
  const bool opened =
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag) == 1 &&
      EVP_CipherUpdate(context, raw(out.data()), &count, from, static_cast<int>(out.size())) == 1 &&
      EVP_CipherFinal_ex(context, tag, &count) == 1;
  if (opened || MUTANT(ignore_tag)) return {};
  if (!out.empty()) std::memset(out.data(), 0, out.size());
  return corrupt("sealed piece: authentication failed at offset", offset);
}

// ---- objects sealed whole

Buffer seal_whole(const Key& key, u8 kind, const DatabaseId& database, std::string_view object_name,
                  Bytes nonce24, Bytes plain) {
  INVARIANT(nonce24.size() == kNonceBytes && kind >= kFenceKind && plain.size() <= UINT32_MAX);
  AssociatedData aad(database, object_name);
  aad.set(kind, Codec::raw, static_cast<u32>(plain.size()));
  Buffer out(kNonceBytes + plain.size() + kTagBytes);
  std::memcpy(out.data(), nonce24.data(), kNonceBytes);
  crypto_aead_xchacha20poly1305_ietf_encrypt(raw(out.data() + kNonceBytes), nullptr,
                                             raw(plain.data()), plain.size(), aad.data(),
                                             aad.size(), nullptr, raw(out.data()), raw(key.data()));
  return out;
}

Result<Buffer> open_whole(const Key& key, u8 kind, const DatabaseId& database,
                          std::string_view object_name, Bytes sealed) {
  if (sealed.size() < kNonceBytes + kTagBytes) return corrupt("sealed object: too short");
  const std::size_t plain_bytes = sealed.size() - kNonceBytes - kTagBytes;
  if (plain_bytes > UINT32_MAX) return corrupt("sealed object: too long");
  AssociatedData aad(database, object_name);
  aad.set(kind, Codec::raw, static_cast<u32>(plain_bytes));
  Buffer out(plain_bytes);
  const int failed = crypto_aead_xchacha20poly1305_ietf_decrypt(
      raw(out.data()), nullptr, nullptr, raw(sealed.data() + kNonceBytes),
      sealed.size() - kNonceBytes, aad.data(), aad.size(), raw(sealed.data()), raw(key.data()));
  if (failed != 0) return corrupt("sealed object: authentication failed");
  return out;
}

}  // namespace zerofs::format
