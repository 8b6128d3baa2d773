// The manifest without its seal: for manifest.cc, its tests and its fuzz target.
#pragma once

#include "engine/format/manifest.h"

namespace zerofs::format {

std::vector<std::byte> encode_manifest_plain(const Manifest& manifest);
// Total: any bytes give a Manifest whose numbers make names, or corrupt.
Result<Manifest> decode_manifest_plain(Bytes bytes);

}  // namespace zerofs::format
