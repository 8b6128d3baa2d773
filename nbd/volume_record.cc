#include "nbd/volume_record.h"

#include "engine/base/wire.h"

namespace zerofs::nbd {

namespace {

constexpr u8 kRecordVersion = 1;

// The length of the UTF-8 sequence at the front, 0 when it is malformed (RFC 3629).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<u8>(text[i]); };
  const auto follows = [&](std::size_t count) {
    if (text.size() <= count) return false;
    for (std::size_t i = 1; i <= count; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return false;
    }
    return true;
  };
  const u8 first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef && follows(2)) {
    const bool overlong = first == 0xe0 && byte(1) < 0xa0;
    const bool surrogate = first == 0xed && byte(1) > 0x9f;
    return overlong || surrogate ? 0 : 3;
  }
  if (first >= 0xf0 && first <= 0xf4 && follows(3)) {
    const bool overlong = first == 0xf0 && byte(1) < 0x90;
    const bool beyond = first == 0xf4 && byte(1) > 0x8f;
    return overlong || beyond ? 0 : 4;
  }
  return 0;
}

}  // namespace

Result<> check_volume_name(std::string_view name) {
  if (name.empty()) return invalid("a volume needs a name");
  if (name.size() > kVolumeNameBytesMax) return invalid("a volume's name has at most 255 bytes");
  if (name == "." || name == "..") return invalid("a volume cannot be called . or ..");
  for (std::string_view rest = name; !rest.empty();) {
    const u8 c = static_cast<u8>(rest.front());
    if (c < 0x20 || c == 0x7f || c == '/') {
      return invalid("a volume's name cannot hold '/' or control characters");
    }
    const std::size_t length = utf8_length(rest);
    if (length == 0) return invalid("a volume's name must be UTF-8");
    rest.remove_prefix(length);
  }
  return {};
}

Result<> check_volume_size(u64 size) {
  if (size == 0) return invalid("a volume's size must be above 0");
  if (size % kVolumeSizeMultiple != 0) return invalid("a volume's size must be a multiple of 512");
  if (size > kVolumeBytesMax) return invalid("a volume has at most 64 PiB");
  return {};
}

std::string encode_volume_record(const VolumeInfo& info) {
  Writer out;
  out.put<u8>(kRecordVersion);
  out.put_varint(info.object.value);
  out.put_varint(info.size);
  out.put<u8>(info.read_only ? 1 : 0);
  out.put_varint(info.created_unix_seconds);
  return std::string(text_of(out.bytes()));
}

Result<VolumeInfo> decode_volume_record(std::string_view name, std::string_view record) {
  Reader in(bytes_of(record));
  VolumeInfo info;
  info.name = name;
  const u8 version = in.get<u8>();
  if (version > kRecordVersion)
    return invalid("a volume record of a newer ZeroFS, version", version);
  info.object.value = in.get_varint();
  info.size = in.get_varint();
  const u8 flags = in.get<u8>();
  info.read_only = flags == 1;
  info.created_unix_seconds = in.get_varint();
  if (!in.ok() || !in.at_end() || version == 0 || flags > 1) {
    return corrupt("a volume record is malformed");
  }
  if (!check_volume_name(name) || !check_volume_size(info.size)) {
    return corrupt("a volume record has an impossible name or size", info.size);
  }
  return info;
}

}  // namespace zerofs::nbd
