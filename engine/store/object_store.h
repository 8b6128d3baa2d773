// The one seam to storage. S3 is the model; file:// and memory:// behave like it, the simulated
// store of tests/sim is stricter.
#pragma once

#include <string>
#include <vector>

#include "engine/base/task.h"

namespace zerofs::store {

struct Tail {
  u64 object_bytes = 0;  // of the whole object
  Buffer bytes;          // its last min(asked, object_bytes) bytes
};

// How urgent a request is; a store may reserve resources for the first two.
enum class Class : u8 { log, foreground, bulk };

// Names are '/'-separated, of [a-z0-9._-], without empty, "." or ".." parts, at most 200 bytes.
// Nothing is ever overwritten. Every operation has a deadline of the store's own, after which it
// fails with `retry`; the request may still take effect later. Errors not named below: `retry`
// (anything transient, disk full included, which is reported as no_space), `denied`.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  // Fills `out` with bytes [offset, offset + out.size()) of `name`.
  // Errors: not_found; corrupt when the object is shorter.
  virtual Task<> read(std::string name, u64 offset, MutableBytes out, Class klass) = 0;

  // The last `bytes_max` bytes, or all of a smaller object. Errors: not_found.
  virtual Task<Tail> read_suffix(std::string name, u64 bytes_max, Class klass) = 0;

  // Creates `name` if absent; durable on return, never visible in part. Errors: precondition when
  // it exists, which after a lost reply may be our own write: look before believing it; no_space.
  virtual Task<> create(std::string name, Bytes body, Class klass) = 0;

  // Removes `name`; success when it is absent already.
  virtual Task<> remove(std::string name) = 0;

  // Names that start with `prefix`, above `after`, in byte order, at most `count_max`.
  // A name created before the call is in the answer; racing creates and removes may or may not be.
  virtual Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                              u32 count_max) = 0;
};

}  // namespace zerofs::store
