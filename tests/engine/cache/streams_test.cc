// Goal: sequential readers are found and served ahead, random ones never; what is promised covers
// the range without gaps or repeats and within its bounds. Method: readers of known shape.
#include "engine/cache/streams.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

namespace zerofs::cache {
namespace {

constexpr u64 kMax = 32 * kMiB;

// Reads in order, as a client whose hits and misses follow from what was fetched ahead.
struct Reader {
  Streams& streams;
  u64 at;
  u64 length;
  u64 ahead_end = 0;
  u64 fetched = 0;

  Streams::Range step() {
    const bool hits = at + length <= ahead_end;
    const Streams::Range range =
        hits ? streams.hit(at, length, kMax) : streams.missed(at, length, kMax);
    at += length;
    if (range.bytes != 0) {
      CHECK(range.offset >= at);
      if (ahead_end > at) CHECK(range.offset == ahead_end);  // neither a gap nor a repeat
      ahead_end = range.offset + range.bytes;
      fetched += range.bytes;
      CHECK(ahead_end - at <= kMax);
    }
    return range;
  }
};

TEST_CASE("a sequential reader has the limit ahead of it after reading half as much") {
  for (const u64 length : {u64{4096}, 64 * kKiB, 128 * kKiB, kMiB}) {
    CAPTURE(length);
    Streams streams;
    Reader reader{streams, 5 * kMiB, length};
    reader.step();
    CHECK(reader.fetched == 0);  // one read is no sequence
    u64 smallest = kMax;
    const u64 begin = reader.at;
    while (reader.at < 200 * kMiB) {
      reader.step();
      const u64 read = reader.at - begin;
      CHECK(reader.fetched <= 3 * read + 3 * length + kAheadMin);
      if (read > 40 * kMiB) smallest = std::min(smallest, reader.ahead_end - reader.at);
    }
    CHECK(smallest >= kMax - kAheadStepMax - length);
  }
}

TEST_CASE("random reads are never served ahead") {
  std::mt19937_64 random(1);
  Streams streams;
  u64 served = 0;
  for (u32 i = 0; i < 100'000; ++i) {
    const u64 offset = random() % (u64{100} * kGiB) / 4096 * 4096;
    served += streams.missed(offset, 4096, kMax).bytes;
  }
  CHECK(served <= 4 * kAheadMin);  // two in a row may be neighbours by chance
}

TEST_CASE("several readers of one object are told apart, beside random reads") {
  std::mt19937_64 random(2);
  Streams streams;
  std::vector<Reader> readers;
  for (u64 i = 0; i < 4; ++i) readers.push_back({streams, i * kGiB, 256 * kKiB});
  for (u32 step = 0; step < 400; ++step) {
    for (Reader& reader : readers) reader.step();
    streams.missed(u64{100} * kGiB + random() % kGiB, 4096, kMax);
  }
  for (const Reader& reader : readers)
    CHECK(reader.ahead_end - reader.at >= kMax - kAheadStepMax - kMiB);
}

TEST_CASE("requests of a deep queue may come out of order") {
  std::mt19937_64 random(3);
  Streams streams;
  constexpr u64 kLength = 256 * kKiB;
  std::vector<u64> order;
  for (u64 at = 0; at < 400 * kMiB; at += kLength) order.push_back(at);
  for (std::size_t i = 0; i + 4 < order.size(); i += 4) {
    std::shuffle(order.begin() + static_cast<i64>(i), order.begin() + static_cast<i64>(i) + 4,
                 random);
  }
  u64 end = 0;
  u64 misses = 0;
  for (const u64 at : order) {
    const bool hits = at + kLength <= end;
    misses += hits ? 0 : 1;
    const Streams::Range range =
        hits ? streams.hit(at, kLength, kMax) : streams.missed(at, kLength, kMax);
    if (range.bytes != 0) end = std::max(end, range.offset + range.bytes);
  }
  CHECK(misses < 16);
}

TEST_CASE("a small limit is kept to") {
  Streams streams;
  for (u64 at = 0; at < 10 * kMiB; at += 64 * kKiB) {
    const Streams::Range range = streams.missed(at, 64 * kKiB, kAheadMin / 2);
    if (range.bytes != 0) CHECK(range.offset + range.bytes <= at + 64 * kKiB + kAheadMin / 2);
  }
}

}  // namespace
}  // namespace zerofs::cache
