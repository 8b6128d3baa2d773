// Any bytes as the tail of a log slot, a footer behind its seal, a fence, a compressed frame, or an
// object's name (FORMAT.md, "Log object", "Fence", "Frame", "Names"). The first byte says which.
#include "engine/base/wire.h"
#include "engine/format/compress.h"
#include "engine/format/log_plain.h"

namespace {

using namespace zerofs;
using namespace zerofs::format;

void use_footer(Bytes bytes) {
  if (bytes.size() < 8) return;
  Reader in(bytes);
  const u64 offset = in.get<u64>();
  const Result<LogFooter> footer = decode_log_footer_plain(bytes.subspan(8), offset);
  if (footer) INVARIANT(footer->layer.offset + footer->layer.stored_bytes <= offset);
}

// Nothing that was not sealed with the key is believed.
void use_slot(Bytes bytes) {
  static_cast<void>(classify_log_slot(bytes));
  static const DatabaseKeys keys({}, {});
  const Term term{1};
  const Seq seq{1};
  ObjectCipher cipher(keys, {}, log_name(term, seq));
  INVARIANT(!decode_log_footer(cipher, align_piece(bytes.size()), bytes, term, seq));
  INVARIANT(!decode_fence(keys, bytes, term, seq));
}

void use_frame(Bytes bytes) {
  if (bytes.empty()) return;
  std::vector<std::byte> plain((static_cast<u8>(bytes[0]) % 8 + 1) * kPageBytes);
  if (!decompress(bytes.subspan(1), plain)) return;
  std::vector<std::byte> packed(compress_bound(plain.size()));
  packed.resize(compress_always(plain, packed));
  std::vector<std::byte> again(plain.size());
  INVARIANT(decompress(packed, again) && again == plain);
}

void use_name(std::string_view name) {
  if (const auto version = manifest_version_of(name)) INVARIANT(manifest_name(*version) == name);
  if (const auto slot = key_slot_of(name)) INVARIANT(key_slot_name(*slot) == name);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: use_footer(bytes); break;
    case 1: use_slot(bytes); break;
    case 2: use_frame(bytes); break;
    default: use_name(text_of(bytes)); break;
  }
  return 0;
}
