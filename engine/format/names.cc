#include "engine/format/names.h"

#include <fmt/format.h>

#include <charconv>

namespace zerofs::format {

const char* const kManifestPrefix = "manifest/";
const char* const kKeySlotPrefix = "key/";

namespace {
std::optional<u64> hex_after(std::string_view name, std::string_view prefix, std::size_t digits) {
  if (!name.starts_with(prefix) || name.size() != prefix.size() + digits) return {};
  u64 value = 0;
  const char* begin = name.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), value, 16);
  if (error != std::errc() || end != name.data() + name.size()) return {};
  return value;
}
}  // namespace

std::string log_prefix(Term term) { return fmt::format("log/{:06x}/", term.value); }
std::string log_name(Term term, Seq seq) {
  return fmt::format("log/{:06x}/{:010x}", term.value, seq.value);
}
std::string segment_name(lsm::SegmentId segment) {
  return fmt::format("{}/{:06x}/{:010x}", lsm::is_pack(segment) ? "pack" : "log",
                     lsm::term_of(segment).value, lsm::number_of(segment));
}
std::string table_name(TableId table) {
  return fmt::format("sst/{:06x}/{:010x}", table.term.value, table.number);
}
std::string manifest_name(u64 version) {
  return fmt::format("{}{:016x}", kManifestPrefix, ~version);
}
std::string gone_name(u64 block) { return fmt::format("gone/{:016x}", block); }
std::string key_slot_name(u64 number) { return fmt::format("{}{:08x}", kKeySlotPrefix, number); }

std::optional<u64> manifest_version_of(std::string_view name) {
  const std::optional<u64> inverted = hex_after(name, kManifestPrefix, 16);
  if (!inverted) return {};
  return ~*inverted;
}
std::optional<u64> key_slot_of(std::string_view name) { return hex_after(name, kKeySlotPrefix, 8); }

}  // namespace zerofs::format
