// The version set and its bytes: manifest/<version> (FORMAT.md, "Manifest"). Every manifest is a
// full snapshot.
#pragma once

#include "engine/base/runtime.h"
#include "engine/format/cipher.h"
#include "engine/format/names.h"

namespace zerofs::format {

// Who opened a term: to tell a live owner from one that is gone, and to name it to the user.
struct Owner {
  std::string hostname;
  std::string machine_id;
  std::string boot_id;
  std::string pid_namespace;  // inode of /proc/self/ns/pid, decimal
  u64 pid = 0;
  u64 start_time = 0;  // of the process, field 22 of /proc/<pid>/stat
  u64 opened_unix_seconds = 0;
  std::string role;  // "server", "volume create", …
  friend bool operator==(const Owner&, const Owner&) = default;
};

// One writer's term. Its log is the slots [replay_from, end) once sealed; slot `end` is a fence,
// or was never written by anybody after a clean shutdown. `salt` is needed as long as any object of
// the term is referenced.
struct TermRecord {
  Term term;
  Salt salt{};
  u64 replay_from = 0;
  std::optional<u64> end;  // none: unsealed
  bool closed_cleanly = false;
  Owner owner;
  friend bool operator==(const TermRecord&, const TermRecord&) = default;
};

struct TableRecord {
  TableId id;
  u64 object_bytes = 0;
  u64 entries = 0;
  u64 erased_ranges = 0;
  u64 meta_entries = 0;
  std::string first_key;  // encoded keys (lsm/table.h) of entries and erased ranges together
  std::string last_key;
  friend bool operator==(const TableRecord&, const TableRecord&) = default;
};

struct Manifest {
  u64 version = 0;
  DatabaseId database{};
  u64 created_unix_seconds = 0;
  Term last_term;                   // ever taken; records of older terms may be forgotten
  std::vector<TermRecord> terms;    // by term, increasing
  std::vector<std::vector<TableRecord>> levels;  // [0] newest first; deeper ones by first_key
  friend bool operator==(const Manifest&, const Manifest&) = default;
};

constexpr u64 kManifestBodyBytesMax = 256 * kMiB;

// Sealed whole, zstd inside, trailer as for every object. Errors of decode: corrupt; invalid when a
// newer format version wrote it.
Buffer encode_manifest(const DatabaseKeys& keys, const Manifest& manifest, Bytes nonce24);
Result<Manifest> decode_manifest(const DatabaseKeys& keys, u64 version, Bytes object);

}  // namespace zerofs::format
