// Sizes as people write them: 4096, 10GiB, 512MiB, 1.5TiB, 1TB (decimal), 64K (binary).
#pragma once

#include <string>

#include "engine/base/result.h"

namespace zerofs::tools {

// Bytes. Errors: invalid (negative, fractional bytes, overflow, unknown unit).
Result<u64> parse_size(std::string_view text);
// Exact where a binary unit divides it ("10 GiB"), else with one decimal ("1.4 GiB").
std::string format_size(u64 bytes);

}  // namespace zerofs::tools
