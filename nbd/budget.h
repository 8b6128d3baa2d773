// What the connections of one server hold together, in bytes: replies not sent yet, reads in
// progress, payloads on their way in. Nearly all of it pins pages of the cache, so clients that do
// not take their answers could otherwise stop everybody else.
//
// Each connection may always hold a little, so that small requests never depend on strangers.
#pragma once

#include "engine/base/types.h"

namespace zerofs::nbd {

class Budget {
 public:
  static constexpr u32 kAlwaysBytes = 64 * kKiB;  // of each connection

  static constexpr u64 kConnectionShare = 4;  // none takes more than this part of it

  explicit Budget(u64 limit_bytes) : limit_(limit_bytes) {}

  // Whether a connection that holds `own` bytes may take `more`. One request may exceed the limits,
  // since it must be possible at all: a connection's only one, while half of everything is free.
  bool admits(u64 own, u64 more) const {
    if (own + more <= kAlwaysBytes) return true;
    const bool fits_own = own == 0 || own + more <= limit_ / kConnectionShare;
    return fits_own && (held_ + more <= limit_ || held_ <= limit_ / 2);
  }
  bool is_tight() const { return held_ > limit_ / 2; }

  // A connection held `charged` bytes and holds `own` now.
  void account(u64& charged, u64 own) {
    held_ = held_ - charged + own;
    charged = own;
  }

 private:
  u64 limit_;
  u64 held_ = 0;
};

}  // namespace zerofs::nbd
