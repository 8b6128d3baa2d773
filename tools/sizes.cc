#include "tools/sizes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace zerofs::tools {

namespace {

// The factor of a unit, or 0.
u64 factor_of(std::string unit) {
  std::ranges::transform(unit, unit.begin(), [](unsigned char c) { return std::tolower(c); });
  if (unit.empty() || unit == "b") return 1;
  constexpr std::string_view kLetters = "kmgtp";
  const std::size_t power = kLetters.find(unit[0]);
  if (power == std::string_view::npos) return 0;
  const std::string_view rest = std::string_view(unit).substr(1);
  u64 base = 0;
  if (rest.empty() || rest == "ib") base = 1024;
  if (rest == "b") base = 1000;
  u64 factor = base == 0 ? 0 : 1;
  for (std::size_t i = 0; i <= power; ++i) factor *= base;
  return factor;
}

}  // namespace

Result<u64> parse_size(std::string_view text) {
  const auto bad = [] {
    return invalid("a size is a number and a unit: 4096, 64KiB, 512MiB, 10GiB, 1.5TiB, 1TB");
  };
  std::size_t at = 0;
  u64 whole = 0;
  u64 fraction = 0;
  u64 scale = 1;
  bool digits = false;
  for (; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at) {
    const u64 digit = static_cast<u64>(text[at] - '0');
    if (whole > (UINT64_MAX - digit) / 10) return invalid("the size is too large");
    whole = whole * 10 + digit;
    digits = true;
  }
  if (at < text.size() && text[at] == '.') {
    for (++at; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at) {
      if (scale >= 1'000'000) return bad();
      fraction = fraction * 10 + static_cast<u64>(text[at] - '0');
      scale *= 10;
      digits = true;
    }
  }
  while (at < text.size() && text[at] == ' ') ++at;
  const u64 factor = factor_of(std::string(text.substr(at)));
  if (!digits || factor == 0) return bad();
  if (whole > UINT64_MAX / factor) return invalid("the size is too large");
  const unsigned __int128 part = static_cast<unsigned __int128>(fraction) * factor;
  if (part % scale != 0 && factor == 1) return invalid("a size is a whole number of bytes");
  const u64 more = static_cast<u64>(part / scale);
  if (whole * factor > UINT64_MAX - more) return invalid("the size is too large");
  return whole * factor + more;
}

std::string format_size(u64 bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  u32 unit = 0;
  u64 factor = 1;
  while (unit < 5 && bytes / factor >= 1024) {
    factor *= 1024;
    ++unit;
  }
  if (bytes % factor == 0) return fmt::format("{} {}", bytes / factor, kUnits[unit]);
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(factor),
                     kUnits[unit]);
}

}  // namespace zerofs::tools
