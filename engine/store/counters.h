// What a store was asked for: for tests, status and metrics.
#pragma once

#include "engine/base/types.h"

namespace zerofs::store {

struct StoreCounters {
  u64 creates = 0;
  u64 created_bytes = 0;
  u64 reads = 0;
  u64 read_bytes = 0;
  u64 lists = 0;
  u64 removes = 0;
  u64 requests() const { return creates + reads + lists + removes; }
};

}  // namespace zerofs::store
