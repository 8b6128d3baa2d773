// Replies on their way out of one connection: headers in an arena, data as references into pinned
// pages, gathered into one vector for one sendmsg. While a send is in flight the next replies
// gather in the second half. Nothing is allocated in the steady state.
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include <memory>
#include <vector>

#include "engine/db.h"
#include "nbd/wire.h"

namespace zerofs::nbd {

class ReplyQueue {
 public:
  explicit ReplyQueue(Db& db) : db_(db) {}
  ~ReplyQueue();

  // The bytes are copied.
  void add_bytes(Bytes bytes);
  template <class T>
  void add_struct(const T& value) {
    add_bytes(struct_bytes(value));
  }
  // Not copied: takes over the pins, and releases them when the send is done.
  void add_pieces(std::span<const Piece> pieces);

  // Starts a send of what has gathered: call when none is in flight and has_pending().
  // The vector of what is left, at most `count_max` entries.
  std::span<iovec> begin_send();
  std::span<iovec> rest(std::size_t count_max) {
    Half& half = halves_[1 - gathering_];
    const std::size_t left = half.vectors.size() - half.sent;
    return {half.vectors.data() + half.sent, left < count_max ? left : count_max};
  }
  // `bytes` of the vector were sent; true when all of it was, and its pins are released.
  bool sent(u64 bytes);

  bool has_pending() const { return !halves_[gathering_].vectors.empty(); }
  // Not sent yet, the send in flight included.
  u64 queued_bytes() const { return queued_bytes_; }
  std::size_t queued_vectors() const {
    return halves_[0].vectors.size() + halves_[1].vectors.size();
  }
  // Forgets everything. No send may be in flight.
  void clear();

 private:
  static constexpr std::size_t kVectorsKept = 2048;

  // Headers at stable addresses.
  class Arena {
   public:
    std::byte* allocate(std::size_t bytes);
    void reset() {
      if (blocks_.size() > kBlocksKept) blocks_.resize(kBlocksKept);
      block_ = used_ = 0;
    }

   private:
    static constexpr std::size_t kBlockBytes = 16384;
    static constexpr std::size_t kBlocksKept = 2;
    std::vector<std::unique_ptr<std::byte[]>> blocks_;
    std::size_t block_ = 0;
    std::size_t used_ = 0;
  };
  struct Half {
    Arena headers;
    std::vector<iovec> vectors;
    std::size_t sent = 0;  // vectors that are out
    std::vector<Piece> pins;
  };
  void add_vector(const std::byte* data, std::size_t bytes);
  void release(Half& half);

  Db& db_;
  Half halves_[2];
  u32 gathering_ = 0;
  u64 queued_bytes_ = 0;
};

}  // namespace zerofs::nbd
