// Goal: whatever folds behind it, the memtable answers as the plain sequence of what was pushed;
// frozen layers stay visible and untouched until they are dropped. Method: random pushes, freezes
// and drops, compared with a list of layers after every step; workers fold in between.
#include "engine/lsm/memtable.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "layer_model.h"
#include "lsm_world.h"

namespace zerofs::lsm::test {

namespace {

// The same pages and meta as in a plain list of layers, newest first.
void check_same(const Memtable& memtable, const std::vector<LayerRef>& plain) {
  Layer all;
  for (const LayerRef& layer : plain) all = fold(all, *layer);
  for (u64 object = 0; object < kObjects; ++object) {
    for (u64 chunk = 0; chunk < kChunks; ++chunk) {
      std::vector<Found> expected;
      const u32 expected_left = find_in_layer(all, object_at(object), chunk, ~u32{0}, expected);
      std::vector<Found> found;
      const u32 left = memtable.find(object_at(object), chunk, ~u32{0}, found);
      REQUIRE(left == expected_left);
      REQUIRE(spread(found) == spread(expected));
    }
  }
  for (u64 i = 0; i < kMetaKeys; ++i) {
    const std::string key = "key" + std::to_string(i);
    const MetaEntry* const expected = find_meta(all, key);
    const MetaEntry* const found = memtable.find_meta(key);
    REQUIRE((found == nullptr) == (expected == nullptr));
    REQUIRE((found == nullptr || *found == *expected));
  }
}

LayerRef layer_of(u64 chunks) {
  LayerBuilder builder;
  for (u64 chunk = 0; chunk < chunks; ++chunk) {
    builder.add_empty(object_at(0), chunk, 1, RunKind::zero);
  }
  return std::make_shared<const Layer>(std::move(builder).build());
}

// Counts the jobs that pass through.
struct CountingExecutor final : Executor {
  explicit CountingExecutor(Executor& to) : to(to) {}
  void post(std::coroutine_handle<> handle) override { to.post(handle); }
  void submit(Job& job, Priority priority) override {
    ++jobs;
    to.submit(job, priority);
  }
  void arm(Timer& timer, Instant deadline) override { to.arm(timer, deadline); }
  void disarm(Timer& timer) override { to.disarm(timer); }
  Executor& to;
  u64 jobs = 0;
};

u64 bytes_of(const std::vector<LayerRef>& layers) {
  u64 bytes = 0;
  for (const LayerRef& layer : layers) bytes += layer->memory_bytes();
  return bytes;
}

}  // namespace

TEST_CASE("a memtable equals the list of what was pushed") {
  LsmWorld world;
  for (u64 seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    Memtable memtable(world.executor());
    std::vector<LayerRef> plain;
    std::vector<LayerRef> frozen;
    for (u64 step = 0; step < 120; ++step) {
      const u64 what = below(rng, 20);
      if (what < 14) {
        plain.insert(plain.begin(), std::make_shared<const Layer>(random_sample(rng, 8).layer));
        memtable.push(plain.front());
      } else if (what < 16) {
        world.settle(Duration(below(rng, 200'000)));
      } else if (what < 18) {
        frozen = memtable.freeze();
        REQUIRE(frozen == memtable.layers());
      } else if (memtable.has_frozen()) {
        // What is dropped is exactly what freeze() handed out, whatever was pushed since.
        const std::size_t newer = memtable.layers().size() - frozen.size();
        REQUIRE(std::equal(frozen.begin(), frozen.end(),
                           memtable.layers().begin() + static_cast<std::ptrdiff_t>(newer)));
        const std::vector<LayerRef> rest(
            memtable.layers().begin(),
            memtable.layers().begin() + static_cast<std::ptrdiff_t>(newer));
        memtable.drop_frozen();
        REQUIRE(!memtable.has_frozen());
        REQUIRE(memtable.layers() == rest);
        plain = rest;
      }
      REQUIRE(memtable.memory_bytes() == bytes_of(memtable.layers()));
      check_same(memtable, plain);
    }
    REQUIRE(world.run(memtable.close()).has_value());
  }
}

TEST_CASE("no work goes into frozen layers") {
  LsmWorld world;
  CountingExecutor executor(world.executor());
  Memtable memtable(executor);
  memtable.push(layer_of(50));
  memtable.freeze();
  CHECK(executor.jobs == 0);
  memtable.push(layer_of(50));  // a frozen neighbour of the same size
  memtable.freeze();
  memtable.push(layer_of(50));  // two of them
  for (u64 i = 0; i < 20; ++i) world.settle(100us);
  CHECK(executor.jobs == 0);
  CHECK(memtable.layers().size() == 3);
  memtable.push(layer_of(50));  // its neighbour is not frozen
  for (u64 i = 0; i < 10'000 && memtable.layers().size() > 3; ++i) world.settle(100us);
  CHECK(executor.jobs == 1);
  CHECK(memtable.layers().size() == 3);
  REQUIRE(world.run(memtable.close()).has_value());
}

TEST_CASE("about log2 layers stand") {
  LsmWorld world;
  Memtable memtable(world.executor());
  constexpr u64 kLayers = 512;
  for (u64 i = 0; i < kLayers; ++i) {
    LayerBuilder builder;
    for (u64 chunk = 0; chunk < 50; ++chunk) {
      builder.add_empty(object_at(0), i * 50 + chunk, 1, RunKind::zero);
    }
    memtable.push(std::make_shared<const Layer>(std::move(builder).build()));
    if (i % 8 == 0) world.settle(Duration(0));
  }
  const auto all_folded = [&] {
    const auto worth_folding = [](const LayerRef& newer, const LayerRef& older) {
      return 2 * newer->memory_bytes() >= older->memory_bytes();
    };
    return std::ranges::adjacent_find(memtable.layers(), worth_folding) == memtable.layers().end();
  };
  for (u64 tries = 0; !all_folded() && tries < 10'000; ++tries) world.settle(1ms);
  CHECK(all_folded());
  CHECK(memtable.layers().size() <= 10);
  std::vector<Found> found;
  for (u64 chunk = 0; chunk < kLayers * 50; ++chunk) {
    found.clear();
    CHECK(memtable.find(object_at(0), chunk, 1, found) == 0);
  }
  REQUIRE(world.run(memtable.close()).has_value());
}

}  // namespace zerofs::lsm::test
