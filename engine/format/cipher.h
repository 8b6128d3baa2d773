// Sealing: every byte that leaves the process is compressed, then encrypted and bound to its place
// (FORMAT.md, "Sealed pieces"; DESIGN section 13).
//
// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03, RFC 8439): nonce (24) = 16 bytes derived from
// the term's salt and the object's full name ‖ 4 random bytes drawn once per sealed object and
// stored with each piece ‖ 4-byte ordinal = byte offset / 16. The first 16 bytes are the same for
// a whole object, so its HChaCha20 subkey is computed once. AAD = format version, piece kind,
// database id, object name, codec, plain length.
//
// A sealed piece: 4 random bytes, ciphertext, 16-byte tag; it starts at a multiple of 16.
#pragma once

#include <array>
#include <string>

#include "engine/lsm/layer.h"

namespace zerofs::format {

using lsm::Codec;

constexpr u32 kFormatVersion = 1;
constexpr u32 kSealHeadBytes = 4;                   // random
constexpr u32 kSealOverhead = kSealHeadBytes + 16;  // and the tag
constexpr u64 kPieceAlignment = 16;
constexpr u32 kObjectNameBytesMax = 200;
inline u64 align_piece(u64 offset) { return (offset + kPieceAlignment - 1) & ~(kPieceAlignment - 1); }

using Key = std::array<std::byte, 32>;
using Salt = std::array<std::byte, 16>;        // of a term; random, kept in the manifest
using DatabaseId = std::array<std::byte, 16>;  // random, drawn by init

enum class PieceKind : u8 {
  frame = 1,
  layer = 2,
  log_footer = 3,
  table_block = 4,
  table_index = 5,
  table_footer = 6,
};
// Objects sealed whole, with keys of their own.
constexpr u8 kFenceKind = 16;
constexpr u8 kManifestKind = 17;

// The keys of one database, derived from its random data key with BLAKE2b (crypto_kdf); locked
// memory, wiped at the end, left out of core files.
class DatabaseKeys {
 public:
  DatabaseKeys(const Key& data_key, const DatabaseId& database);
  ~DatabaseKeys();
  DatabaseKeys(const DatabaseKeys&) = delete;

  const DatabaseId& database() const { return database_; }
  const Key& pieces() const;     // log objects, packs, tables
  const Key& manifests() const;  // sealed whole, fully random nonce
  const Key& fences() const;     // sealed whole, fully random nonce

 private:
  struct Secrets;
  Secrets* secrets_;
  DatabaseId database_;
};

// Seals and opens the pieces of one object. Any thread, one thread at a time.
class ObjectCipher {
 public:
  // `random` is drawn anew for each object that is sealed; for opening it is ignored.
  ObjectCipher(const DatabaseKeys& keys, const Salt& salt, std::string object_name,
               std::array<std::byte, 4> random = {});
  ~ObjectCipher();
  ObjectCipher(ObjectCipher&&) noexcept;

  // `input` (raw or compressed) → out[0, input.size() + kSealOverhead). `offset` is where the
  // piece will lie in the object, below 64 GiB; `plain_bytes` its size before compression. `input`
  // may lie exactly where the ciphertext will, at out.data() + kSealHeadBytes.
  void seal(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes input,
            MutableBytes out);
  // The same with an input in several parts.
  void seal_parts(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes,
                  std::span<const Bytes> parts, MutableBytes out);
  // The reverse, without decompression: `out` has sealed.size() - kSealOverhead bytes.
  // Errors: corrupt; `out` is then zeroed.
  Result<> open(PieceKind kind, u64 offset, Codec codec, u32 plain_bytes, Bytes sealed,
                MutableBytes out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Objects sealed whole (fence, manifest): 24-byte random nonce, ciphertext, tag, AAD as above with
// the object's name. `kind` >= 16; the plain bytes are fewer than 2^32. Errors: corrupt.
Buffer seal_whole(const Key& key, u8 kind, const DatabaseId& database, std::string_view object_name,
                  Bytes nonce24, Bytes plain);
Result<Buffer> open_whole(const Key& key, u8 kind, const DatabaseId& database,
                          std::string_view object_name, Bytes sealed);

}  // namespace zerofs::format
