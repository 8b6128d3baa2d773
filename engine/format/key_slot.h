// Key slots: key/<n> wraps the database's random data key (FORMAT.md, "Key slot"). Changing the
// password adds a slot under a new number and removes the old one.
#pragma once

#include "engine/base/runtime.h"
#include "engine/format/cipher.h"

namespace zerofs::format {

// A buffer that is wiped when it dies. Do not grow it: the bytes left behind would not be wiped.
class Secret : public Buffer {
 public:
  Secret() = default;
  Secret(Buffer&& bytes) : Buffer(std::move(bytes)) {}
  Secret(Secret&&) = default;
  Secret& operator=(Secret&& other) noexcept {
    wipe();
    Buffer::operator=(std::move(other));
    return *this;
  }
  ~Secret() { wipe(); }

 private:
  void wipe();
};

// What the user gives: the bytes of a key file (at least 32, hashed) or a password (Argon2id).
struct KeyMaterial {
  enum class Kind : u8 { key_file, password };
  Kind kind = Kind::key_file;
  Secret secret;
  KeyMaterial copy() const { return {kind, Buffer::copy_of(secret)}; }
};
constexpr u32 kKeyFileBytesMin = 32;

struct KdfParameters {  // Argon2id; ignored for key files
  u64 memory_bytes = 256 * kMiB;
  u64 passes = 3;
};
// What a slot may ask for: it is read before it is authenticated.
constexpr u64 kKdfMemoryBytesMin = 8 * kKiB;
constexpr u64 kKdfMemoryBytesMax = kGiB;
constexpr u64 kKdfPassesMax = 64;

struct DataKey {
  DatabaseId database{};
  Key key{};
  ~DataKey();  // wipes the key
};

// A slot object. Random is used for salt and nonce. Errors: invalid for a key file that is too
// short, an empty password, parameters out of bounds; no_space when Argon2id gets no memory.
// Takes as long as the parameters say (about 0.5 s by default).
Result<Buffer> encode_key_slot(const KeyMaterial& material, const DataKey& data_key, u64 slot,
                               KdfParameters parameters, Random& random);

// Errors: denied when the material is not the one that made the slot (wrong password or key, or a
// damaged slot: authentication cannot tell); corrupt when the object is no key slot at all or
// another one; invalid when the kind differs (a password slot given a key file and so on, the text
// says it) or a newer format version wrote it; invalid and no_space as above.
// Parameters read from the slot are capped before they are used.
Result<DataKey> decode_key_slot(const KeyMaterial& material, u64 slot, Bytes object);

}  // namespace zerofs::format
