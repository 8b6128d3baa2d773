// Finds sequential readers of one object and says what to fetch ahead of them (DESIGN section 9).
//
// A stream is a reader that has gone on where a read ended. It is promised twice what it has read
// so far, between kAheadMin and the caller's limit, so that a reader that stops has wasted at most
// twice its own bytes, and one that goes on has the limit ahead after a few round trips. Random
// readers are never served ahead: a read that continues nothing only takes the place of the stream
// that was used longest ago.
//
// Requests of one reader may come a little out of order (queue depth, several connections).
#pragma once

#include <array>

#include "engine/base/types.h"

namespace zerofs::cache {

constexpr u32 kStreamsMax = 8;           // readers of one object that are told apart
constexpr u64 kAheadMin = kChunkBytes;   // 128 KiB
constexpr u64 kAheadStepMax = 4 * kMiB;  // fetched at once; several are in flight

class Streams {
 public:
  struct Range {
    u64 offset = 0;
    u64 bytes = 0;  // 0: nothing
  };

  // A read of [offset, offset + bytes) missed the cache: what to fetch besides, beyond it.
  Range missed(u64 offset, u64 bytes, u64 ahead_max) {
    return note(offset, bytes, ahead_max, true);
  }
  // It hit. Cheap while there is no stream.
  Range hit(u64 offset, u64 bytes, u64 ahead_max) {
    if (served_ == 0) [[likely]]
      return {};
    return note(offset, bytes, ahead_max, false);
  }

 private:
  struct Stream {
    u64 next = 0;       // where it will go on
    u64 run = 0;        // bytes read in sequence
    u64 ahead_end = 0;  // fetched, or being fetched, up to here; 0: not served yet
    u64 used = 0;       // the greater, the later
  };
  Range note(u64 offset, u64 bytes, u64 ahead_max, bool missed);
  static bool continues(const Stream& stream, u64 offset, u64 bytes);

  std::array<Stream, kStreamsMax> streams_{};
  u32 served_ = 0;  // streams with something ahead
  u64 clock_ = 0;
};

}  // namespace zerofs::cache
