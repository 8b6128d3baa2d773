// The pieces of the hot paths, one by one.
#include <benchmark/benchmark.h>

#include <random>

#include "engine/cache/page_cache.h"
#include "engine/format/frame.h"
#include "engine/lsm/layer.h"

namespace zerofs {
namespace {

std::vector<std::byte> noise(std::size_t bytes) {
  std::mt19937_64 random(1);
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}
std::vector<std::byte> text(std::size_t bytes) {
  std::mt19937_64 random(1);
  constexpr std::string_view kWords[] = {"select ", "from ", "where ", "value ", "0.375 ", "id = "};
  std::string out;
  while (out.size() < bytes) {
    out += kWords[random() % std::size(kWords)];
    out += std::to_string(random() % 1000);
  }
  const Bytes raw = bytes_of(out);
  return {raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(bytes)};
}

struct Seal {
  Seal() : keys(format::Key{}, format::DatabaseId{}), cipher(keys, {}, "log/000001/0000000000") {}
  format::DatabaseKeys keys;
  format::ObjectCipher cipher;
};

// Arguments: pages in the frame, zstd level (9: stored), 0 noise or 1 text.
void seal_frame(benchmark::State& state) {
  Seal seal;
  const auto pages = static_cast<std::size_t>(state.range(0));
  const auto data = state.range(2) != 0 ? text(pages * kPageBytes) : noise(pages * kPageBytes);
  std::vector<const std::byte*> pointers;
  for (std::size_t i = 0; i < pages; ++i) pointers.push_back(data.data() + i * kPageBytes);
  const format::Compression compression{.stored = state.range(1) == 9,
                                        .level = static_cast<int>(state.range(1))};
  Buffer out;
  for (auto _ : state) {
    out.resize(0);
    benchmark::DoNotOptimize(format::seal_frame(seal.cipher, pointers, 0, compression, out));
  }
  state.SetBytesProcessed(static_cast<i64>(state.iterations() * pages * kPageBytes));
}
BENCHMARK(seal_frame)
    ->Args({1, 1, 0})->Args({1, -1, 0})->Args({1, 9, 0})->Args({8, 1, 0})->Args({8, 9, 0})
    ->Args({1, 1, 1})->Args({8, 1, 1})->Args({8, -1, 1});

void open_frame(benchmark::State& state) {
  Seal seal;
  const auto pages = static_cast<std::size_t>(state.range(0));
  const auto data = text(pages * kPageBytes);
  std::vector<const std::byte*> pointers;
  for (std::size_t i = 0; i < pages; ++i) pointers.push_back(data.data() + i * kPageBytes);
  Buffer out;
  const auto frame = format::seal_frame(seal.cipher, pointers, 0, {.level = 1}, out);
  std::vector<std::byte> plain(pages * kPageBytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(format::open_frame(
        seal.cipher, frame, out.bytes().subspan(frame.offset, frame.stored_bytes), plain));
  }
  state.SetBytesProcessed(static_cast<i64>(state.iterations() * pages * kPageBytes));
}
BENCHMARK(open_frame)->Arg(1)->Arg(8);

lsm::Layer random_layer(u64 seed, std::size_t runs) {
  std::mt19937_64 random(seed);
  lsm::LayerBuilder builder;
  for (std::size_t i = 0; i < runs; ++i) {
    const u8 page = static_cast<u8>(random() % kPagesPerChunk);
    builder.add_data({1}, random() % (1 << 20), 1u << page, lsm::log_segment({1}, {seed}),
                     {.offset = i * 4128, .stored_bytes = 4116, .first_page = page});
  }
  return std::move(builder).build();
}

void fold_layers(benchmark::State& state) {
  const auto runs = static_cast<std::size_t>(state.range(0));
  const lsm::Layer a = random_layer(1, runs);
  const lsm::Layer b = random_layer(2, runs);
  for (auto _ : state) benchmark::DoNotOptimize(lsm::fold(a, b));
  state.SetItemsProcessed(static_cast<i64>(state.iterations() * 2 * runs));
}
BENCHMARK(fold_layers)->Arg(4096)->Arg(262144);

struct NoJudge final : cache::StaleJudge {
  bool erased_after(ObjectId, u64, u64) override { return false; }
};

void cache_hit(benchmark::State& state) {
  constexpr u32 kPages = 65536;
  auto slab = std::move(*cache::PageSlab::create(kPages));
  NoJudge judge;
  cache::PageCache cache(*slab, kPages, judge);
  cache::Object* object = cache.open_object({1});
  for (u32 page = 0; page < kPages; ++page) {
    cache::Node& node = cache.find_or_create(*object, page / kPagesPerChunk);
    cache.set_page(node, page % kPagesPerChunk, slab->allocate());
  }
  std::mt19937 random(1);
  for (auto _ : state) {
    const u32 page = random() % kPages;
    cache::Node* node = cache.find(*object, page / kPagesPerChunk);
    slab->reference(node->pages[page % kPagesPerChunk]);
    slab->release(node->pages[page % kPagesPerChunk]);
  }
  for (u32 chunk = 0; chunk < kPages / kPagesPerChunk; ++chunk) {
    cache::Node* node = cache.find(*object, chunk);
    cache.drop_pages(*node, ~0u);
    cache.settle(*node);
  }
  cache.close_object(object);
}
BENCHMARK(cache_hit);

}  // namespace
}  // namespace zerofs

BENCHMARK_MAIN();
