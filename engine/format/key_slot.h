// Key slots: key/<n> wraps the database's random data key (FORMAT.md, "Key slot"). Changing the
// password adds a slot under a new number and removes the old one.
#pragma once

#include "engine/base/runtime.h"
#include "engine/format/cipher.h"

namespace zerofs::format {

// What the user gives: the bytes of a key file (at least 32, hashed) or a password (Argon2id).
struct KeyMaterial {
  enum class Kind : u8 { key_file, password };
  Kind kind = Kind::key_file;
  Buffer secret;
  KeyMaterial copy() const { return {kind, Buffer::copy_of(secret)}; }
};

struct KdfParameters {  // Argon2id; ignored for key files
  u64 memory_bytes = 256 * kMiB;
  u64 passes = 3;
};

struct DataKey {
  DatabaseId database{};
  Key key{};
};

// A slot object. Random is used for salt and nonce.
Result<Buffer> encode_key_slot(const KeyMaterial& material, const DataKey& data_key, u64 slot,
                               KdfParameters parameters, Random& random);

// Errors: denied when the material is not the one that made the slot (wrong password or key, or a
// damaged slot: authentication cannot tell); corrupt when the object is no key slot at all;
// invalid when the kind differs (a password slot given a key file and so on, the text says it).
// Parameters read from the slot are capped (1 GiB, 64 passes) before they are used.
Result<DataKey> decode_key_slot(const KeyMaterial& material, u64 slot, Bytes object);

}  // namespace zerofs::format
