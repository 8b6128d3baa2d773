#include "engine/cache/streams.h"

#include <algorithm>

namespace zerofs::cache {

namespace {
// How far from its place, in its own lengths, a request may come and still belong to the stream.
constexpr u64 kDisorder = 4;
// A reader that jumps back or forth inside what was fetched for it is still the same one.
constexpr u64 kBackMax = 8 * kMiB;
}  // namespace

bool Streams::continues(const Stream& stream, u64 offset, u64 bytes) {
  if (stream.used == 0) return false;
  const u64 slack = kDisorder * bytes;
  if (stream.ahead_end == 0) return offset >= stream.next && offset - stream.next <= slack;
  const u64 back = std::min(stream.run, kBackMax);
  return offset + back >= stream.next && offset <= std::max(stream.next, stream.ahead_end) + slack;
}

Streams::Range Streams::note(u64 offset, u64 bytes, u64 ahead_max, bool missed) {
  Stream* found = nullptr;
  for (Stream& stream : streams_) {
    if (!continues(stream, offset, bytes)) continue;
    if (found == nullptr || stream.used > found->used) found = &stream;
  }
  if (found == nullptr) {
    if (!missed) return {};
    Stream& oldest = *std::ranges::min_element(streams_, {}, &Stream::used);
    if (oldest.ahead_end != 0) --served_;
    oldest = {.next = offset + bytes, .run = bytes, .ahead_end = 0, .used = ++clock_};
    return {};
  }
  Stream& stream = *found;
  stream.used = ++clock_;
  stream.next = std::max(stream.next, offset + bytes);
  stream.run += bytes;
  const u64 target = std::min(std::max(2 * stream.run, kAheadMin), ahead_max);
  const u64 begin = std::max(stream.ahead_end, stream.next);
  const u64 ahead = begin - stream.next;
  const u64 step = std::clamp(target / 4, std::min(kAheadMin, target), kAheadStepMax);
  if (ahead + step > target) return {};
  if (stream.ahead_end == 0) ++served_;
  stream.ahead_end = stream.next + target;
  return {begin, stream.ahead_end - begin};
}

}  // namespace zerofs::cache
