// The layer: what a batch, a memtable, a table and a whole level are, and the only merge there is.
//
// A layer is {erased ranges, entries, meta}: applied to what lies below it, it first erases, then
// overlays. fold(newer, older) is associative and idempotent, so replay, memtable, flush,
// compaction and reads all use it and no sequence numbers are needed: age is position in the
// read view (DESIGN section 3).
//
// A lookup walks the view from newest to oldest with a mask of the pages it still needs. In one
// layer an entry wins over an erased range; an erased range resolves its pages to holes, so the
// lookup stops there and never reaches a parent object.
//
// Entries cost 24 bytes: objects and segments are numbered per layer, through sorted tables.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace zerofs::lsm {

// Names an object that holds frames: kind << 63 | term << 39 | number. Kind 0 is a log object
// (number = its seq), kind 1 a pack.
using SegmentId = Id<struct SegmentTag>;
constexpr u32 kTermBits = 24;
constexpr u32 kNumberBits = 39;
inline SegmentId log_segment(Term term, Seq seq) {
  return {term.value << kNumberBits | seq.value};
}
inline SegmentId pack_segment(Term term, u64 number) {
  return {u64{1} << 63 | term.value << kNumberBits | number};
}
inline bool is_pack(SegmentId id) {
  return (id.value >> 63) != 0;
}
inline Term term_of(SegmentId id) {
  return {(id.value >> kNumberBits) & ((u64{1} << kTermBits) - 1)};
}
inline u64 number_of(SegmentId id) {
  return id.value & ((u64{1} << kNumberBits) - 1);
}

enum class Codec : u8 { raw, zstd };

enum class RunKind : u8 {
  data,  // pages of one frame
  zero,  // read as zeroes, allocated
  hole,  // read as zeroes, not allocated
};

// A sealed frame in its segment. Everything that decoding needs is in this pointer, which is
// itself authenticated; nothing is believed that lies beside the ciphertext.
struct FramePointer {
  u64 offset = 0;        // in the segment; a multiple of 16, below 64 GiB
  u32 stored_bytes = 0;  // sealed: random, ciphertext, tag; below 2^17
  u8 first_page = 0;     // of the chunk, 0..31
  u8 page_count = 1;     // consecutive pages, 1..8
  Codec codec = Codec::raw;
  friend bool operator==(const FramePointer&, const FramePointer&) = default;
};

// Some pages of one chunk that have one source.
class Run {
 public:
  Run() = default;
  static Run data(u32 mask, u32 segment, const FramePointer& frame) {
    INVARIANT(frame.offset % 16 == 0 && frame.offset / 16 <= UINT32_MAX);
    INVARIANT(frame.stored_bytes < (1u << 17) && frame.page_count >= 1 && frame.page_count <= 8);
    Run run;
    run.mask = mask;
    run.segment = segment;
    run.offset16_ = static_cast<u32>(frame.offset / 16);
    run.bits_ = frame.stored_bytes | u32{frame.first_page} << 17 |
                u32{static_cast<u8>(frame.page_count - 1)} << 22 |
                static_cast<u32>(frame.codec) << 25;
    return run;
  }
  static Run empty(u32 mask, RunKind kind) {
    Run run;
    run.mask = mask;
    run.bits_ = static_cast<u32>(kind) << 27;
    return run;
  }

  RunKind kind() const { return static_cast<RunKind>(bits_ >> 27); }
  FramePointer frame() const {
    return {.offset = u64{offset16_} * 16,
            .stored_bytes = bits_ & 0x1ffff,
            .first_page = static_cast<u8>(bits_ >> 17 & 31),
            .page_count = static_cast<u8>((bits_ >> 22 & 7) + 1),
            .codec = static_cast<Codec>(bits_ >> 25 & 3)};
  }
  // The same source, whichever pages of it are taken.
  bool same_source(const Run& other) const {
    return segment == other.segment && offset16_ == other.offset16_ && bits_ == other.bits_;
  }
  friend bool operator==(const Run&, const Run&) = default;

  u32 mask = 0;     // pages of the chunk; never 0 in a layer
  u32 segment = 0;  // index into the layer's segment table; 0 unless data

 private:
  u32 offset16_ = 0;
  u32 bits_ = 0;  // stored bytes 17, first page 5, page count - 1: 3, codec 2, kind 2
};
static_assert(sizeof(Run) == 16);

struct Entry {
  u64 key = 0;  // index into the layer's object table << 40 | chunk
  Run run;
  friend bool operator==(const Entry&, const Entry&) = default;
};
static_assert(sizeof(Entry) == 24);

// Chunks first..last (inclusive) of an object. `whole_object` marks the deletion of the object
// itself. It is made over 0..kChunkIndexMax; a table that ends inside the object holds a part of
// it. Ids are never reused, so whatever joins with such a range is deleted for good as well.
struct ErasedRange {
  ObjectId object;
  u64 first = 0;
  u64 last = 0;
  bool whole_object = false;
  friend bool operator==(const ErasedRange&, const ErasedRange&) = default;
};

struct MetaEntry {
  std::string key;
  std::optional<std::string> value;  // none: deleted
  friend bool operator==(const MetaEntry&, const MetaEntry&) = default;
};

constexpr u64 kObjectsPerLayerMax = u64{1} << 24;  // what an entry's key can number

// Immutable once built. Invariants (check_layer tests them):
//   objects, segments   strictly increasing, each one referenced
//   entries             by key; masks of one key are disjoint, in order of their lowest bit
//   erased              by (object, first), disjoint, neighbours joined
//   meta                by key, strictly increasing
struct Layer {
  std::vector<ObjectId> objects;
  std::vector<SegmentId> segments;
  std::vector<Entry> entries;
  std::vector<ErasedRange> erased;
  std::vector<MetaEntry> meta;

  bool empty() const { return entries.empty() && erased.empty() && meta.empty(); }
  u64 memory_bytes() const;
  friend bool operator==(const Layer&, const Layer&) = default;
};
using LayerRef = std::shared_ptr<const Layer>;

// The layer that does what `older` and then `newer` do. Runs of one chunk that have the same source
// become one. About 15 ns per entry.
Layer fold(const Layer& newer, const Layer& older);

// For decoders and tests: whether every invariant above holds.
bool check_layer(const Layer& layer);

// One resolved part of a lookup. `segment` is meaningful for data only.
struct Found {
  u32 mask = 0;
  RunKind kind = RunKind::hole;
  SegmentId segment;
  FramePointer frame;
};

// Resolves what it can of `need` in this layer, appends it to `out`, returns the pages that are
// still needed. O(log n).
u32 find_in_layer(const Layer& layer, ObjectId object, u64 chunk, u32 need,
                  std::vector<Found>& out);

// Whether an erased range of `layer` covers the chunk.
bool erased_in_layer(const Layer& layer, ObjectId object, u64 chunk);
// The same in ranges that are sorted and disjoint.
bool covers(std::span<const ErasedRange> erased, ObjectId object, u64 chunk);

// Chunks of [first, last] that have entries, in order, at most `count_max`.
std::vector<u64> chunks_in_layer(const Layer& layer, ObjectId object, u64 first, u64 last,
                                 std::size_t count_max);

// What an entry's key stands for.
struct EntryView {
  ObjectId object;
  u64 chunk = 0;
};
EntryView view_of(const Layer& layer, const Entry& entry);

// The entry for `key`, or null when the layer says nothing of it.
const MetaEntry* find_meta(const Layer& layer, std::string_view key);

// Collects a layer in any order of calls within these rules: an erase removes what was added
// under it before; a page added twice keeps the newer source. Cheap when keys come in order and
// erases come first, as sealing does it.
class LayerBuilder {
 public:
  void add_data(ObjectId object, u64 chunk, u32 mask, SegmentId segment, const FramePointer& frame);
  void add_empty(ObjectId object, u64 chunk, u32 mask, RunKind kind);
  void erase(const ErasedRange& range);
  void put_meta(std::string key, std::optional<std::string> value);
  Layer build() &&;

 private:
  struct Item {
    ObjectId object;
    u64 chunk;
    u64 order;
    SegmentId segment;
    Run run;  // its segment index is set by build()
  };
  void number_segments(Layer& out);
  void add_entries(Layer& out);

  std::vector<Item> items_;
  std::vector<ErasedRange> erased_;
  std::vector<MetaEntry> meta_;
  u64 next_order_ = 0;
};

}  // namespace zerofs::lsm
