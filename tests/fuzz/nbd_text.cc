// Any bytes as a volume's record, a volume's name or a listen address. The first byte says which.
#include "nbd/server.h"
#include "nbd/volume_record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  using namespace zerofs::nbd;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      if (const Result<VolumeInfo> info = decode_volume_record("disk", text)) {
        INVARIANT(check_volume_size(info->size));
        const Result<VolumeInfo> again = decode_volume_record("disk", encode_volume_record(*info));
        INVARIANT(again && *again == *info);
      }
      break;
    case 1:
      if (check_volume_name(text)) {
        INVARIANT(!text.empty() && text.size() <= kVolumeNameBytesMax);
        INVARIANT(text.find('/') == text.npos && text.find('\0') == text.npos);
      }
      break;
    default:
      if (const Result<ListenAddress> address = parse_listen_address(text)) {
        INVARIANT(address->unix_path.empty() != address->host.empty());
      }
      break;
  }
  return 0;
}
