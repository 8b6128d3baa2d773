// A layer from any bytes: decoded to something with every invariant, which encodes again, or refused.
#include "engine/format/log_object.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  const Result<lsm::Layer> layer =
      format::decode_layer({reinterpret_cast<const std::byte*>(data), size});
  if (!layer) return 0;
  INVARIANT(lsm::check_layer(*layer));
  const std::vector<std::byte> again = format::encode_layer(*layer);
  const Result<lsm::Layer> same = format::decode_layer(again);
  INVARIANT(same && *same == *layer);
  return 0;
}
