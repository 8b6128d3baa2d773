// A plain model of layers over a tiny world: two objects, a few chunks, a few frames. One byte per
// page says where it comes from; merging is a loop over bytes. And random layers to compare with
// it.
#pragma once

#include <array>
#include <map>
#include <random>

#include "engine/lsm/layer.h"

namespace zerofs::lsm::test {

using Rng = std::mt19937_64;
inline u64 below(Rng& rng, u64 bound) {
  return rng() % bound;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ZEROFS_SANITIZED
#endif
#endif
#if defined(__OPTIMIZE__) && !defined(ZEROFS_SANITIZED)
constexpr u64 kManyCases = 1'000'000;
#else
constexpr u64 kManyCases = 100'000;
#endif

constexpr u64 kObjects = 2;
constexpr u64 kChunks =
    5;  // 0..4 may have pages; "chunk" 5 stands for all above, which may be erased
constexpr u64 kFrames = 24;
constexpr u64 kMetaKeys = 4;

inline ObjectId object_at(u64 i) {
  return {u64{1} << 40 | (i + 1) * 3};
}

// Source of a page: 0 none, 1 zero, 2 hole, 3 + i frame i.
using SourceId = u8;
constexpr SourceId kNoSource = 0;
constexpr SourceId kZeroSource = 1;
constexpr SourceId kHoleSource = 2;
constexpr SourceId kFirstFrame = 3;

struct TestFrame {
  SegmentId segment;
  FramePointer frame;
  u32 mask = 0;  // pages it holds
};
const TestFrame& frame_at(u64 i);
SourceId source_of(const Found& found);

struct Model {
  std::array<std::array<std::array<SourceId, kPagesPerChunk>, kChunks>, kObjects> pages{};
  std::array<std::array<bool, kChunks + 1>, kObjects> erased{};
  std::array<bool, kObjects> deleted{};  // as a whole
  std::map<std::string, std::optional<std::string>> meta;

  void put(u64 object, u64 chunk, u32 mask, SourceId source);
  void erase(u64 object, u64 first, u64 last);  // last == kChunks: to the end of chunk space
  void erase_object(u64 object);
  friend bool operator==(const Model&, const Model&) = default;
};

Model fold(const Model& newer, const Model& older);

// The one layer that says what the model says.
Layer to_layer(const Model& model);

// The same random calls to a builder and a model.
struct Sample {
  Layer layer;
  Model model;
};
Sample random_sample(Rng& rng, u64 calls_max);

// What a lookup found, page by page.
std::array<SourceId, kPagesPerChunk> spread(const std::vector<Found>& found);

}  // namespace zerofs::lsm::test
