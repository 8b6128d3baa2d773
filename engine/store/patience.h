// Reading with patience: what may pass (`retry`) is tried again with back-off, for about a minute
// and a half in all; then the caller gets the last error. For whoever has nothing better to do:
// opening a database, and lookups that an operation waits for.
#pragma once

#include "engine/base/sync.h"
#include "engine/store/object_store.h"

namespace zerofs::store {

constexpr u32 kPatientTriesMax = 20;

Task<> read_patiently(Runtime runtime, ObjectStore& store, std::string name, u64 offset,
                      MutableBytes out, Class klass);
Task<Tail> read_suffix_patiently(Runtime runtime, ObjectStore& store, std::string name,
                                 u64 bytes_max, Class klass);
Task<std::vector<std::string>> list_patiently(Runtime runtime, ObjectStore& store,
                                              std::string prefix, std::string after, u32 count_max);

}  // namespace zerofs::store
