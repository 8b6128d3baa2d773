// Keys of a table (FORMAT.md, "Table"): 'd' object (8, big-endian) chunk (8, big-endian) for data,
// 'm' and the key's own bytes for meta. Byte order is the order of the layer, data before meta.
#pragma once

#include <array>

#include "engine/base/wire.h"
#include "engine/lsm/layer.h"

namespace zerofs::lsm {

constexpr char kDataFamily = 'd';
constexpr char kMetaFamily = 'm';

class DataKey {
 public:
  DataKey(ObjectId object, u64 chunk) {
    raw_.family = static_cast<u8>(kDataFamily);
    raw_.object = object.value;
    raw_.chunk = chunk;
  }
  std::string_view text() const { return text_of(struct_bytes(raw_)); }
  operator std::string_view() const { return text(); }

 private:
  struct Raw {
    Be<u8> family;
    Be<u64> object;
    Be<u64> chunk;
  };
  static_assert(sizeof(Raw) == 17 && alignof(Raw) == 1);
  friend std::optional<EntryView> parse_data_key(std::string_view key);
  Raw raw_;
};

// None unless `key` is one that DataKey makes.
inline std::optional<EntryView> parse_data_key(std::string_view key) {
  if (key.size() != sizeof(DataKey::Raw) || key[0] != kDataFamily) return {};
  const auto raw = struct_from<DataKey::Raw>(bytes_of(key));
  if (raw.chunk > kChunkIndexMax) return {};
  return EntryView{{raw.object}, raw.chunk};
}

inline std::string meta_table_key(std::string_view key) {
  return kMetaFamily + std::string(key);
}

inline std::optional<std::string_view> parse_meta_key(std::string_view key) {
  if (key.empty() || key[0] != kMetaFamily) return {};
  return key.substr(1);
}

}  // namespace zerofs::lsm
