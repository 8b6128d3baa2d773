// Log objects and fences: what lies under log/<term>/<seq> (FORMAT.md, "Log object", "Fence").
//
//   frames …  | layer blob | footer piece | trailer
//
// The last kLogTailBytes hold the sealed footer and the trailer, so one suffix GET finds layer and
// footer of a small object at once and the position of the layer of a large one.
#pragma once

#include "engine/format/frame.h"
#include "engine/format/names.h"

namespace zerofs::format {

struct LogFooter {
  Term term;
  Seq seq;
  u64 durable_end = 0;       // the writer's durable prefix [0, durable_end) when it sealed this
  u64 journal_position = 0;  // highest journal position inside; 0 without a journal
  u64 data_bytes = 0;        // of frames, sealed
  BlobPointer layer;
  friend bool operator==(const LogFooter&, const LogFooter&) = default;
};

// Appends the layer, footer and trailer behind the frames that are in `object` already. The
// layer's only segment is the object itself. `footer.layer` is filled in.
void finish_log_object(ObjectCipher& cipher, const lsm::Layer& layer, LogFooter footer,
                       Compression compression, Buffer& object);

constexpr u64 kLogTailBytes = 112;
constexpr u64 kLogTailGuessBytes = 256 * kKiB;  // what to ask a suffix read for

enum class LogSlot : u8 { log_object, fence };
// What the last bytes of an object claim it is, before anything is authenticated.
// Errors: corrupt (neither); invalid when a newer format version wrote it.
Result<LogSlot> classify_log_slot(Bytes tail);

// The authenticated footer from the last bytes (kLogTailBytes or more) of an object of
// `object_bytes`. Its layer lies inside the object. Errors: corrupt, invalid as above.
Result<LogFooter> decode_log_footer(ObjectCipher& cipher, u64 object_bytes, Bytes tail, Term term,
                                    Seq seq);
// The layer from its sealed bytes at footer.layer; checks every invariant of a layer, and that
// every run points inside [0, footer.layer.offset) of this very object. Errors: corrupt.
Result<lsm::Layer> decode_log_layer(ObjectCipher& cipher, const LogFooter& footer, Bytes sealed);

// A fence ends a term: the slot can never hold a log object.
struct Fence {
  Term term;          // that it ends
  Seq seq;            // its slot
  Term fenced_by;     // the term that its maker takes
  friend bool operator==(const Fence&, const Fence&) = default;
};
constexpr u64 kFenceBytesMax = 256;
// Errors of decode: corrupt, invalid as above.
Buffer encode_fence(const DatabaseKeys& keys, const Fence& fence, Bytes nonce24);
Result<Fence> decode_fence(const DatabaseKeys& keys, Bytes object, Term term, Seq seq);

// Layer ↔ bytes, for any layer that passes check_layer. Total: any bytes give such a layer or
// corrupt; memory is bounded by a small multiple of the bytes.
std::vector<std::byte> encode_layer(const lsm::Layer& layer);
Result<lsm::Layer> decode_layer(Bytes bytes);

}  // namespace zerofs::format
