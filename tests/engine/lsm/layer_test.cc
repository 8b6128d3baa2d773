// Goal: the layer algebra is what DESIGN section 3 says: erase, then overlay; fold is associative
// and idempotent; looking through a stack is looking into its fold. Method: many random layers in a
// tiny world, where pages, erased ranges and objects meet all the time, against a model that is a
// loop over bytes. Then single rules by name, and layers that check_layer must refuse.
#include "engine/lsm/layer.h"

#include <doctest/doctest.h>

#include "engine/lsm/layer_parts.h"
#include "layer_model.h"

namespace zerofs::lsm::test {

namespace {

// doctest's macros are too slow for millions of calls.
void require(bool holds, const char* what, u64 seed) {
  if (!holds) FAIL("seed ", seed, ": ", what);
}

void check_lookup(const Layer& layer, const Model& model, Rng& rng, u64 seed) {
  const u64 object = below(rng, kObjects);
  const u64 chunk = below(rng, kChunks);
  const u32 need = static_cast<u32>(rng() | rng());
  std::vector<Found> found;
  const u32 left = find_in_layer(layer, object_at(object), chunk, need, found);
  const auto pages = spread(found);
  for (u32 page = 0; page < kPagesPerChunk; ++page) {
    SourceId expected = model.pages[object][chunk][page];
    if (expected == kNoSource && model.erased[object][chunk]) expected = kHoleSource;
    if ((need >> page & 1) == 0) expected = kNoSource;
    require(pages[page] == expected, "lookup", seed);
    require((left >> page & 1) == ((need >> page & 1) != 0 && expected == kNoSource), "left", seed);
  }
  require(erased_in_layer(layer, object_at(object), chunk) == model.erased[object][chunk],
          "erased_in_layer", seed);
  const std::string key = "key" + std::to_string(below(rng, kMetaKeys));
  const MetaEntry* const entry = find_meta(layer, key);
  const auto meta = model.meta.find(key);
  require((entry != nullptr) == (meta != model.meta.end()), "find_meta", seed);
  require(entry == nullptr || entry->value == meta->second, "find_meta value", seed);

  std::vector<u64> chunks;
  for (u64 c = 0; c < kChunks; ++c) {
    const auto& all = model.pages[object][c];
    const bool any = std::ranges::any_of(all, [](SourceId s) { return s != kNoSource; });
    if (any && c >= 1 && c <= 3 && chunks.size() < 2) chunks.push_back(c);
  }
  require(chunks_in_layer(layer, object_at(object), 1, 3, 2) == chunks, "chunks_in_layer", seed);
}

}  // namespace

TEST_CASE("random layers agree with the model") {
  for (u64 seed = 0; seed < kManyCases; ++seed) {
    Rng rng(seed);
    const Sample a = random_sample(rng, 6);
    const Sample b = random_sample(rng, 6);
    const Sample c = random_sample(rng, 6);
    require(check_layer(a.layer), "check_layer of a built one", seed);
    require(a.layer == to_layer(a.model), "builder", seed);

    const Layer ab = fold(a.layer, b.layer);
    const Model model_ab = fold(a.model, b.model);
    require(check_layer(ab), "check_layer of a fold", seed);
    require(ab == to_layer(model_ab), "fold", seed);
    require(fold(ab, c.layer) == fold(a.layer, fold(b.layer, c.layer)), "associative", seed);
    require(fold(a.layer, a.layer) == a.layer, "idempotent", seed);
    require(fold(ab, b.layer) == ab, "absorbs what it contains", seed);
    check_lookup(ab, model_ab, rng, seed);
  }
}

TEST_CASE("a lookup through a stack equals a lookup in its fold") {
  for (u64 seed = 0; seed < kManyCases / 10; ++seed) {
    Rng rng(seed);
    std::vector<Layer> stack;  // newest first
    Layer all;
    for (u64 i = 0; i < 1 + below(rng, 6); ++i) {
      stack.push_back(random_sample(rng, 8).layer);
      all = fold(all, stack.back());
    }
    for (u64 i = 0; i < 4; ++i) {
      const ObjectId object = object_at(below(rng, kObjects));
      const u64 chunk = below(rng, kChunks);
      const u32 need = static_cast<u32>(rng());
      std::vector<Found> in_stack;
      u32 left = need;
      for (const Layer& layer : stack) left = find_in_layer(layer, object, chunk, left, in_stack);
      std::vector<Found> in_fold;
      require(find_in_layer(all, object, chunk, need, in_fold) == left, "left", seed);
      require(spread(in_stack) == spread(in_fold), "found", seed);
    }
  }
}

namespace {
const ObjectId kObject{u64{5} << 40 | 1};
const ObjectId kOther{u64{5} << 40 | 2};

std::vector<Found> lookup(const Layer& layer, u64 chunk, u32 need) {
  std::vector<Found> out;
  find_in_layer(layer, kObject, chunk, need, out);
  return out;
}
}  // namespace

TEST_CASE("an erase removes what was added before it, not what comes after") {
  LayerBuilder builder;
  builder.add_empty(kObject, 3, 0xff, RunKind::zero);
  builder.add_empty(kOther, 3, 0xff, RunKind::zero);
  builder.erase({kObject, 0, 9});
  builder.add_empty(kObject, 4, 0x0f, RunKind::zero);
  const Layer layer = std::move(builder).build();
  CHECK(layer.objects == std::vector{kObject, kOther});
  REQUIRE(layer.entries.size() == 2);
  const std::vector<Found> found = lookup(layer, 4, 0xff);
  REQUIRE(found.size() == 2);
  CHECK(found[0].kind == RunKind::zero);
  CHECK(found[0].mask == 0x0f);
  CHECK(found[1].kind == RunKind::hole);  // resolved, so no parent shows through
  CHECK(found[1].mask == 0xf0);
}

TEST_CASE("runs of one source become one") {
  LayerBuilder newer;
  newer.add_empty(kObject, 0, 0x1, RunKind::hole);
  LayerBuilder older;
  older.add_empty(kObject, 0, 0x6, RunKind::hole);
  const Layer both = fold(std::move(newer).build(), std::move(older).build());
  REQUIRE(both.entries.size() == 1);
  CHECK(both.entries[0].run.mask == 0x7);
}

TEST_CASE("the deletion of an object stays marked when ranges join") {
  LayerBuilder newer;
  newer.erase({kObject, 0, kChunkIndexMax, true});
  LayerBuilder older;
  older.erase({kObject, 7, 9});
  older.erase({kOther, 7, 9});
  const Layer both = fold(std::move(newer).build(), std::move(older).build());
  const std::vector<ErasedRange> expected{{kObject, 0, kChunkIndexMax, true},
                                          {kOther, 7, 9, false}};
  CHECK(both.erased == expected);
}

TEST_CASE("segments that nothing refers to leave the table") {
  const FramePointer frame{.offset = 0, .stored_bytes = 4116};
  LayerBuilder newer;
  newer.add_data(kObject, 1, 1, log_segment(Term{1}, Seq{9}), frame);
  LayerBuilder older;
  older.add_data(kObject, 1, 1, log_segment(Term{1}, Seq{8}), frame);
  older.add_data(kObject, 2, 1, log_segment(Term{1}, Seq{7}), frame);
  const Layer both = fold(std::move(newer).build(), std::move(older).build());
  const std::vector expected{log_segment(Term{1}, Seq{7}), log_segment(Term{1}, Seq{9})};
  CHECK(both.segments == expected);
}

TEST_CASE("names of segments") {
  const SegmentId pack = pack_segment(Term{0xabcdef}, (u64{1} << kNumberBits) - 1);
  CHECK(is_pack(pack));
  CHECK(term_of(pack) == Term{0xabcdef});
  CHECK(number_of(pack) == (u64{1} << kNumberBits) - 1);
  const SegmentId log = log_segment(Term{1}, Seq{2});
  CHECK(!is_pack(log));
  CHECK(log < pack);
}

TEST_CASE("check_layer refuses what breaks an invariant") {
  Layer good;
  good.objects = {kObject, kOther};
  good.segments = {log_segment(Term{1}, Seq{1}), log_segment(Term{1}, Seq{2})};
  const FramePointer frame{.offset = 16, .stored_bytes = 100, .first_page = 4, .page_count = 4};
  good.entries = {{key_of(0, 1), Run::data(0x30, 0, frame)},
                  {key_of(0, 1), Run::data(0xc0, 1, frame)},
                  {key_of(1, 0), Run::empty(1, RunKind::zero)}};
  good.erased = {{kObject, 1, 3}, {kObject, 5, 5}, {kOther, 0, 0}};
  good.meta = {{"a", "x"}, {"b", {}}};
  REQUIRE(check_layer(good));

  const auto refused = [&](auto change) {
    Layer bad = good;
    change(bad);
    return !check_layer(bad);
  };
  CHECK(refused([](Layer& l) { std::swap(l.objects[0], l.objects[1]); }));
  CHECK(refused([](Layer& l) { l.objects.push_back({~u64{0}}); }));  // nothing refers to it
  CHECK(refused([](Layer& l) { l.segments[1] = l.segments[0]; }));
  CHECK(refused([](Layer& l) { l.segments.push_back({~u64{0}}); }));
  CHECK(refused([](Layer& l) { l.entries[2].key = key_of(2, 0); }));
  CHECK(refused([](Layer& l) { l.entries[0].run.segment = 2; }));
  CHECK(refused([](Layer& l) { l.entries[2].run.segment = 1; }));  // not data
  CHECK(refused([](Layer& l) { l.entries[2].run.mask = 0; }));
  CHECK(refused([](Layer& l) { l.entries[0].run.mask = 0x108; }));  // not in the frame
  CHECK(refused([](Layer& l) { l.entries[1].run.mask = 0x70; }));   // overlaps
  CHECK(refused([](Layer& l) { std::swap(l.entries[0], l.entries[1]); }));
  CHECK(refused([](Layer& l) { std::swap(l.entries[1], l.entries[2]); }));
  CHECK(refused([](Layer& l) { l.erased[0].first = 4; }));
  CHECK(refused([](Layer& l) { l.erased[0].last = 4; }));  // touches the next
  CHECK(refused([](Layer& l) { l.erased[2].last = kChunkIndexMax + 1; }));
  CHECK(refused([](Layer& l) { std::swap(l.erased[0], l.erased[2]); }));
  CHECK(refused([](Layer& l) { l.meta[1].key = "a"; }));
}

}  // namespace zerofs::lsm::test
