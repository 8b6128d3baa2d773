// The last 16 bytes of every object, in the clear: what the object claims to be, before anything is
// authenticated (FORMAT.md, "Trailer"). It only says how to try; authentication decides.
#pragma once

#include <array>

#include "engine/base/wire.h"
#include "engine/format/cipher.h"

namespace zerofs::format {

using Magic = std::array<char, 8>;
constexpr Magic kLogMagic{'z', 'f', 's', '-', 'l', 'o', 'g', '\n'};
constexpr Magic kPackMagic{'z', 'f', 's', '-', 'p', 'c', 'k', '\n'};
constexpr Magic kTableMagic{'z', 'f', 's', '-', 's', 's', 't', '\n'};
constexpr Magic kFenceMagic{'z', 'f', 's', '-', 'f', 'n', 'c', '\n'};
constexpr Magic kManifestMagic{'z', 'f', 's', '-', 'm', 'a', 'n', '\n'};
constexpr Magic kKeySlotMagic{'z', 'f', 's', '-', 'k', 'e', 'y', '\n'};

struct Trailer {
  Le<u32> version;
  Le<u32> zero;
  Magic magic;
};
static_assert(sizeof(Trailer) == 16 && alignof(Trailer) == 1);

inline Trailer trailer_of(const Magic& magic) {
  return {.version = kFormatVersion, .zero = 0, .magic = magic};
}

// Whether `tail` (any length) ends in the trailer of such an object. Errors: corrupt; invalid when
// a newer format version wrote it.
inline Result<> check_trailer(Bytes tail, const Magic& magic) {
  if (tail.size() < sizeof(Trailer)) return corrupt("trailer: the object is too short");
  const auto trailer = struct_from<Trailer>(tail.last(sizeof(Trailer)));
  if (trailer.magic != magic) return corrupt("trailer: another kind of object");
  if (trailer.version > kFormatVersion) {
    return invalid("written by a newer ZeroFS, in format version", trailer.version);
  }
  if (trailer.version == 0 || trailer.zero != 0) return corrupt("trailer: impossible version");
  return {};
}

}  // namespace zerofs::format
