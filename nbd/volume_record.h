// What the database keeps of a volume, under the meta key "v/<name>": object, size, flags, time of
// creation. Names and sizes that a volume may have.
#pragma once

#include <string>

#include "engine/db.h"

namespace zerofs::nbd {

constexpr u64 kVolumeBytesMax = kObjectBytesMax;
constexpr u32 kVolumeNameBytesMax = 255;
constexpr u64 kVolumeSizeMultiple = 512;

struct VolumeInfo {
  std::string name;
  ObjectId object;
  u64 size = 0;  // bytes
  bool read_only = false;
  u64 created_unix_seconds = 0;
  u32 sessions = 0;  // attached now; not kept
  friend bool operator==(const VolumeInfo&, const VolumeInfo&) = default;
};

// UTF-8, 1 to 255 bytes, no control characters, no '/', not "." or "..". Errors: invalid.
Result<> check_volume_name(std::string_view name);
Result<> check_volume_size(u64 size);

std::string encode_volume_record(const VolumeInfo& info);
// Total: any bytes give a volume whose name and size are allowed, or an Error: corrupt, or invalid
// when a newer version wrote it.
Result<VolumeInfo> decode_volume_record(std::string_view name, std::string_view record);

}  // namespace zerofs::nbd
