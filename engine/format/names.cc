#include "engine/format/names.h"

#include <fmt/format.h>

#include <charconv>

namespace zerofs::format {

const char* const kManifestPrefix = "manifest/";
const char* const kTablePrefix = "sst/";
const char* const kKeySlotPrefix = "key/";

namespace {

// A wider number would sort wrongly and could collide with another name: our own bug.
std::string numbered(std::string_view folder, Term term, u64 number) {
  INVARIANT(term.value < u64{1} << lsm::kTermBits && number < u64{1} << 40);
  return fmt::format("{}/{:06x}/{:010x}", folder, term.value, number);
}

std::optional<u64> hex_after(std::string_view name, std::string_view prefix, std::size_t digits) {
  if (!name.starts_with(prefix) || name.size() != prefix.size() + digits) return {};
  if (name.find_first_of("ABCDEF", prefix.size()) != name.npos) return {};
  u64 value = 0;
  const char* begin = name.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), value, 16);
  if (error != std::errc() || end != name.data() + name.size()) return {};
  return value;
}

}  // namespace

std::string log_prefix(Term term) {
  INVARIANT(term.value < u64{1} << lsm::kTermBits);
  return fmt::format("log/{:06x}/", term.value);
}
std::string log_name(Term term, Seq seq) { return numbered("log", term, seq.value); }
std::string segment_name(lsm::SegmentId segment) {
  return numbered(lsm::is_pack(segment) ? "pack" : "log", lsm::term_of(segment),
                  lsm::number_of(segment));
}
std::string table_name(TableId table) { return numbered("sst", table.term, table.number); }
std::string manifest_name(u64 version) {
  return fmt::format("{}{:016x}", kManifestPrefix, ~version);
}
std::string gone_name(u64 block) { return fmt::format("gone/{:016x}", block); }
std::string key_slot_name(u64 number) {
  INVARIANT(number <= UINT32_MAX);
  return fmt::format("{}{:08x}", kKeySlotPrefix, number);
}

std::optional<u64> manifest_version_of(std::string_view name) {
  const std::optional<u64> inverted = hex_after(name, kManifestPrefix, 16);
  if (!inverted) return {};
  return ~*inverted;
}
std::optional<TableId> table_id_of(std::string_view name) {
  const std::size_t slash = name.rfind('/');
  if (slash == name.npos) return {};
  const std::optional<u64> term = hex_after(name.substr(0, slash), kTablePrefix, 6);
  const std::optional<u64> number = hex_after(name, name.substr(0, slash + 1), 10);
  if (!term || !number) return {};
  return TableId{{*term}, *number};
}
std::optional<u64> key_slot_of(std::string_view name) { return hex_after(name, kKeySlotPrefix, 8); }

}  // namespace zerofs::format
