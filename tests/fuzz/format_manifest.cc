// A manifest from any bytes, behind its seal: decoded and the same when encoded again, or refused.
#include "engine/format/manifest_plain.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  const Result<format::Manifest> manifest =
      format::decode_manifest_plain({reinterpret_cast<const std::byte*>(data), size});
  if (!manifest) return 0;
  const Result<format::Manifest> same =
      format::decode_manifest_plain(format::encode_manifest_plain(*manifest));
  INVARIANT(same && *same == *manifest);
  return 0;
}
