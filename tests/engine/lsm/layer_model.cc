#include "layer_model.h"

#include <doctest/doctest.h>

namespace zerofs::lsm::test {

const TestFrame& frame_at(u64 i) {
  static const auto frames = [] {
    std::array<TestFrame, kFrames> out;
    Rng rng(7);
    for (u64 k = 0; k < kFrames; ++k) {
      TestFrame& frame = out[k];
      const u32 first = static_cast<u32>(below(rng, kPagesPerChunk));
      const u32 count =
          1 + static_cast<u32>(below(rng, std::min(kPagesPerFrameMax, kPagesPerChunk - first)));
      frame.segment = k % 3 == 0 ? pack_segment(Term{2}, k % 5) : log_segment(Term{3}, Seq{k % 4});
      const bool is_zstd = k % 2 == 1;
      frame.frame = {.offset = k * 33'024,
                     .stored_bytes = is_zstd ? 100 + static_cast<u32>(k) : count * kPageBytes + 20,
                     .first_page = static_cast<u8>(first),
                     .page_count = static_cast<u8>(count),
                     .codec = is_zstd ? Codec::zstd : Codec::raw};
      frame.mask = ((u32{1} << count) - 1) << first;
    }
    return out;
  }();
  return frames[i];
}

SourceId source_of(const Found& found) {
  if (found.kind == RunKind::zero) return kZeroSource;
  if (found.kind == RunKind::hole) return kHoleSource;
  for (u64 i = 0; i < kFrames; ++i) {
    if (frame_at(i).segment == found.segment && frame_at(i).frame == found.frame) {
      return static_cast<SourceId>(kFirstFrame + i);
    }
  }
  return 255;  // a frame that never was
}

void Model::put(u64 object, u64 chunk, u32 mask, SourceId source) {
  for (u32 page = 0; page < kPagesPerChunk; ++page) {
    if ((mask >> page & 1) != 0) pages[object][chunk][page] = source;
  }
}

void Model::erase(u64 object, u64 first, u64 last) {
  for (u64 chunk = first; chunk <= last; ++chunk) {
    erased[object][chunk] = true;
    if (chunk < kChunks) pages[object][chunk].fill(kNoSource);
  }
}

void Model::erase_object(u64 object) {
  erase(object, 0, kChunks);
  deleted[object] = true;
}

Model fold(const Model& newer, const Model& older) {
  Model out = newer;
  for (u64 object = 0; object < kObjects; ++object) {
    for (u64 chunk = 0; chunk < kChunks; ++chunk) {
      if (newer.erased[object][chunk]) continue;
      for (u32 page = 0; page < kPagesPerChunk; ++page) {
        SourceId& source = out.pages[object][chunk][page];
        if (source == kNoSource) source = older.pages[object][chunk][page];
      }
    }
    for (u64 chunk = 0; chunk <= kChunks; ++chunk) {
      out.erased[object][chunk] |= older.erased[object][chunk];
    }
    out.deleted[object] |= older.deleted[object];
  }
  out.meta.insert(older.meta.begin(), older.meta.end());
  return out;
}

namespace {

void add_chunk(const Model& model, u64 object, u64 chunk, LayerBuilder& builder) {
  const auto& pages = model.pages[object][chunk];
  std::array<u32, kFirstFrame + kFrames> masks{};
  for (u32 page = 0; page < kPagesPerChunk; ++page) masks[pages[page]] |= u32{1} << page;
  const ObjectId id = object_at(object);
  if (masks[kZeroSource] != 0) builder.add_empty(id, chunk, masks[kZeroSource], RunKind::zero);
  if (masks[kHoleSource] != 0) builder.add_empty(id, chunk, masks[kHoleSource], RunKind::hole);
  for (u64 i = 0; i < kFrames; ++i) {
    const u32 mask = masks[kFirstFrame + i];
    if (mask != 0) builder.add_data(id, chunk, mask, frame_at(i).segment, frame_at(i).frame);
  }
}

}  // namespace

Layer to_layer(const Model& model) {
  LayerBuilder builder;
  for (u64 object = 0; object < kObjects; ++object) {
    for (u64 chunk = 0; chunk <= kChunks; ++chunk) {
      if (!model.erased[object][chunk]) continue;
      builder.erase({object_at(object), chunk, chunk == kChunks ? kChunkIndexMax : chunk,
                     model.deleted[object]});
    }
    for (u64 chunk = 0; chunk < kChunks; ++chunk) add_chunk(model, object, chunk, builder);
  }
  for (const auto& [key, value] : model.meta) builder.put_meta(key, value);
  return std::move(builder).build();
}

namespace {

void add_random_run(Rng& rng, LayerBuilder& builder, Model& model) {
  const u64 object = below(rng, kObjects);
  const u64 chunk = below(rng, kChunks);
  const u32 some = static_cast<u32>(rng() & rng());
  if (below(rng, 4) == 0) {
    const bool zero = below(rng, 2) == 0;
    const u32 mask = some | 1;
    builder.add_empty(object_at(object), chunk, mask, zero ? RunKind::zero : RunKind::hole);
    model.put(object, chunk, mask, zero ? kZeroSource : kHoleSource);
    return;
  }
  const u64 index = below(rng, kFrames);
  const TestFrame& frame = frame_at(index);
  const u32 mask = (some & frame.mask) != 0 ? some & frame.mask : frame.mask;
  builder.add_data(object_at(object), chunk, mask, frame.segment, frame.frame);
  model.put(object, chunk, mask, static_cast<SourceId>(kFirstFrame + index));
}

void add_random_erase(Rng& rng, LayerBuilder& builder, Model& model) {
  const u64 object = below(rng, kObjects);
  if (below(rng, 8) == 0) {
    builder.erase({object_at(object), 0, kChunkIndexMax, true});
    model.erase_object(object);
    return;
  }
  const u64 first = below(rng, kChunks + 1);
  const u64 last = first + below(rng, kChunks + 1 - first);
  builder.erase({object_at(object), first, last == kChunks ? kChunkIndexMax : last, false});
  model.erase(object, first, last);
}

}  // namespace

Sample random_sample(Rng& rng, u64 calls_max) {
  Sample out;
  LayerBuilder builder;
  for (u64 calls = below(rng, calls_max + 1); calls != 0; --calls) {
    const u64 what = below(rng, 10);
    if (what < 7) {
      add_random_run(rng, builder, out.model);
    } else if (what < 8) {
      add_random_erase(rng, builder, out.model);
    } else {
      const std::string key = "key" + std::to_string(below(rng, kMetaKeys));
      std::optional<std::string> value;
      if (below(rng, 3) != 0) value = std::to_string(below(rng, 100));
      builder.put_meta(key, value);
      out.model.meta[key] = value;
    }
  }
  out.layer = std::move(builder).build();
  return out;
}

std::array<SourceId, kPagesPerChunk> spread(const std::vector<Found>& found) {
  std::array<SourceId, kPagesPerChunk> out{};
  for (const Found& one : found) {
    for (u32 page = 0; page < kPagesPerChunk; ++page) {
      if ((one.mask >> page & 1) == 0) continue;
      REQUIRE(out[page] == kNoSource);  // a page is found once
      out[page] = source_of(one);
    }
  }
  return out;
}

}  // namespace zerofs::lsm::test
