// Sealing: a batch becomes the bytes of its log object and the layer that points into them.
#pragma once

#include "engine/format/log_object.h"
#include "engine/log/batch.h"

namespace zerofs::log {

// Everything that sealing needs besides the batch; immutable while it runs.
struct SealInput {
  const format::DatabaseKeys& keys;
  const cache::PageSlab& slab;
  format::Salt salt;
  Term term;
  u64 durable_end = 0;  // of the log, when the seal began
  format::Compression compression;
  std::array<std::byte, 4> random{};
};

// Encodes in steps of about kSealStepBytes, so that urgent jobs get their turn between two steps.
// Any thread, one at a time; the batch's pages must not change meanwhile.
class Sealer {
 public:
  static constexpr u64 kStepBytes = 256 * kKiB;

  Sealer(SealInput input, SealedBatch& batch);
  // Encodes some more; true when the object and the layer are complete in the batch.
  bool step();

 private:
  void erase();
  void add_item(const SealedBatch::Item& item);
  void finish();

  SealInput input_;
  SealedBatch& batch_;
  format::ObjectCipher cipher_;
  lsm::LayerBuilder builder_;
  lsm::SegmentId segment_;
  std::vector<u32> order_;  // of the items, by (object, chunk); others may read the batch meanwhile
  std::size_t next_item_ = 0;
  bool started_ = false;
};

}  // namespace zerofs::log
