// Values of a table's records (FORMAT.md, "Table"): the runs of a chunk, a meta value.
#pragma once

#include "engine/base/wire.h"
#include "engine/lsm/layer.h"

namespace zerofs::lsm {

// References of one table into one segment.
struct SegmentUse {
  SegmentId segment;
  u64 bytes = 0;  // of sealed frames
  friend bool operator==(const SegmentUse&, const SegmentUse&) = default;
};

// `segment_index` belongs to run i's segment in the table; it counts for data only.
void encode_runs(std::span<const Found> runs, std::span<const u32> segment_index, Writer& out);

// Resolves what it can of `need`, appends it to `out`, returns what is still needed. Total. Errors:
// corrupt; `out` may then have grown.
Result<u32> find_in_runs(std::string_view value, std::span<const SegmentUse> segments, u32 need,
                         std::vector<Found>& out);

// None is a deletion.
std::string encode_meta_value(const std::optional<std::string>& value);
Result<std::optional<std::string>> decode_meta_value(std::string_view value);

}  // namespace zerofs::lsm
