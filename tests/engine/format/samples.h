// Fixed keys and seeded contents for the tests of the formats.
#pragma once

#include <random>

#include "engine/base/runtime.h"
#include "engine/format/log_object.h"
#include "engine/format/manifest.h"

namespace zerofs::format {

using Rng = std::mt19937_64;

// Bytes first, first + 1, …
template <std::size_t N>
std::array<std::byte, N> counting(u8 first) {
  std::array<std::byte, N> out;
  for (std::size_t i = 0; i < N; ++i) out[i] = static_cast<std::byte>(first + i);
  return out;
}

// The world of the worked example in FORMAT.md.
inline const Key kDataKey = counting<32>(0x00);
inline const DatabaseId kDatabase = counting<16>(0x20);
inline const Salt kSalt = counting<16>(0x30);
inline const std::array<std::byte, 4> kRandom = counting<4>(0x40);
inline const std::array<std::byte, 24> kNonce = counting<24>(0x50);
inline const DatabaseKeys& keys() {
  static const DatabaseKeys the_keys(kDataKey, kDatabase);
  return the_keys;
}

struct CountingRandom final : Random {
  explicit CountingRandom(u8 first) : next(first) {}
  void fill(MutableBytes out) override {
    for (std::byte& byte : out) byte = static_cast<std::byte>(next++);
  }
  u8 next;
};

std::string to_hex(Bytes bytes);
std::vector<std::byte> from_hex(std::string_view hex);

enum class Content : u8 { zeroes, text, noise, half_noise };
std::vector<std::byte> make_content(Rng& rng, Content content, std::size_t size);

// A layer that passes check_layer. `segments` empty: no data runs.
lsm::Layer random_layer(Rng& rng, const std::vector<lsm::SegmentId>& segments, u32 operations);

Manifest random_manifest(Rng& rng);

// A log object and what went into it.
struct LogSample {
  std::string name;
  LogFooter footer;  // without `layer`
  lsm::Layer layer;
  std::vector<lsm::FramePointer> frames;
  std::vector<std::vector<std::byte>> plain;  // of each frame
  Buffer object;
};
LogSample make_log_object(Rng& rng, const DatabaseKeys& keys, const Salt& salt, Term term, Seq seq,
                          u32 frame_count, Compression compression);

// What recovery and a reader do with an object: classify, footer, layer, every frame. Yields the
// layer; Error at the first thing that is wrong.
Result<lsm::Layer> read_back(const LogSample& sample, const DatabaseKeys& keys, const Salt& salt,
                             Bytes object);

}  // namespace zerofs::format
