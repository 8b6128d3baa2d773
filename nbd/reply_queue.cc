#include "nbd/reply_queue.h"

namespace zerofs::nbd {

std::byte* ReplyQueue::Arena::allocate(std::size_t bytes) {
  INVARIANT(bytes <= kBlockBytes);
  if (block_ < blocks_.size() && used_ + bytes > kBlockBytes) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) blocks_.push_back(std::make_unique<std::byte[]>(kBlockBytes));
  std::byte* at = blocks_[block_].get() + used_;
  used_ += bytes;
  return at;
}

ReplyQueue::~ReplyQueue() {
  clear();
}

void ReplyQueue::clear() {
  for (Half& half : halves_) release(half);
  queued_bytes_ = 0;
}

void ReplyQueue::release(Half& half) {
  db_.unpin(half.pins);
  half.pins.clear();
  half.vectors.clear();
  // What a rare flood needed is not kept.
  if (half.pins.capacity() > kVectorsKept) half.pins.shrink_to_fit();
  if (half.vectors.capacity() > kVectorsKept) half.vectors.shrink_to_fit();
  half.headers.reset();
  half.sent = 0;
}

void ReplyQueue::add_vector(const std::byte* data, std::size_t bytes) {
  std::vector<iovec>& vectors = halves_[gathering_].vectors;
  queued_bytes_ += bytes;
  if (!vectors.empty()) {
    iovec& last = vectors.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += bytes;
      return;
    }
  }
  vectors.push_back({const_cast<std::byte*>(data), bytes});
}

void ReplyQueue::add_bytes(Bytes bytes) {
  constexpr std::size_t kPieceBytes = 8192;
  while (!bytes.empty()) {
    const Bytes piece = bytes.first(std::min(bytes.size(), kPieceBytes));
    std::byte* to = halves_[gathering_].headers.allocate(piece.size());
    std::memcpy(to, piece.data(), piece.size());
    add_vector(to, piece.size());
    bytes = bytes.subspan(piece.size());
  }
}

void ReplyQueue::add_pieces(std::span<const Piece> pieces) {
  Half& half = halves_[gathering_];
  for (const Piece& piece : pieces) {
    add_vector(piece.data, piece.bytes);
    if (!piece.is_zeroes()) half.pins.push_back(piece);
  }
}

std::span<iovec> ReplyQueue::begin_send() {
  gathering_ = 1 - gathering_;
  INVARIANT(halves_[gathering_].vectors.empty());
  return rest(IOV_MAX);
}

bool ReplyQueue::sent(u64 bytes) {
  Half& half = halves_[1 - gathering_];
  queued_bytes_ -= bytes;
  while (bytes != 0) {
    iovec& front = half.vectors[half.sent];
    if (bytes < front.iov_len) {
      front.iov_base = static_cast<std::byte*>(front.iov_base) + bytes;
      front.iov_len -= bytes;
      return false;
    }
    bytes -= front.iov_len;
    ++half.sent;
  }
  if (half.sent != half.vectors.size()) return false;
  release(half);
  return true;
}

}  // namespace zerofs::nbd
