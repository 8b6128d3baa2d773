// Any bytes as a key slot (FORMAT.md, "Key slot"): no key comes out, and no parameter that the bytes
// ask for costs time or memory before it is checked.
#include "engine/format/key_slot.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  using namespace zerofs::format;
  static const std::string secret(kKeyFileBytesMin, 'k');
  static const KeyMaterial material{KeyMaterial::Kind::key_file, Buffer::copy_of(bytes_of(secret))};
  const Result<DataKey> key =
      decode_key_slot(material, 1, {reinterpret_cast<const std::byte*>(data), size});
  INVARIANT(!key);
  return 0;
}
