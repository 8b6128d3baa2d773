// Names of objects (FORMAT.md, "Names"). Numbers are fixed-width lower-case hex; manifests count
// downwards so that a LIST of one key finds the newest.
#pragma once

#include <optional>

#include "engine/lsm/layer.h"

namespace zerofs::format {

// sst/<term>/<n>
struct TableId {
  Term term;
  u64 number = 0;
  friend auto operator<=>(const TableId&, const TableId&) = default;
};

std::string log_name(Term term, Seq seq);              // log/<term 6>/<seq 10>
std::string segment_name(lsm::SegmentId segment);      // log/… or pack/<term 6>/<n 10>
std::string table_name(TableId table);                 // sst/<term 6>/<n 10>
std::string manifest_name(u64 version);                // manifest/<2^64-1-version, 16>
std::string gone_name(u64 block);                      // gone/<block 16>
std::string key_slot_name(u64 number);                 // key/<n 8>
std::optional<u64> manifest_version_of(std::string_view name);
std::optional<u64> key_slot_of(std::string_view name);
std::optional<TableId> table_id_of(std::string_view name);
// "manifest/", "sst/", "key/", "log/<term>/"
extern const char* const kManifestPrefix;
extern const char* const kTablePrefix;
extern const char* const kKeySlotPrefix;
std::string log_prefix(Term term);

// A block of manifest versions shares one gone/ marker.
constexpr u64 kManifestsPerBlock = 512;

}  // namespace zerofs::format
