// The vocabulary of the whole tree: integers, borrowed and owned bytes, typed ids, INVARIANT.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

namespace zerofs {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

constexpr u64 kKiB = 1024;
constexpr u64 kMiB = 1024 * kKiB;
constexpr u64 kGiB = 1024 * kMiB;
constexpr u64 kTiB = 1024 * kGiB;

// Geometry of the data model (DESIGN section 3). A page is the unit of overwrite, a frame of
// compression and encryption, a chunk of indexing; one u32 mask names any set of a chunk's pages.
constexpr u32 kPageBytes = 4096;
constexpr u32 kPagesPerChunk = 32;
constexpr u32 kChunkBytes = kPageBytes * kPagesPerChunk;
constexpr u32 kPagesPerFrameMax = 8;
constexpr u32 kFrameBytesMax = kPageBytes * kPagesPerFrameMax;
constexpr u64 kChunkIndexMax = (u64{1} << 40) - 1;  // a chunk index takes 40 bits
constexpr u64 kObjectBytesMax = u64{1} << 56;       // 64 PiB, half of what 40 bits can name

// Borrowed bytes. `MutableBytes` is where a callee writes.
using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

inline Bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Owned bytes: one allocation, uninitialised, aligned for O_DIRECT. Moves, never copies by
// accident.
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 4096;

  Buffer() = default;
  explicit Buffer(std::size_t size) : data_(allocate(size)), size_(size), capacity_(size) {}
  static Buffer copy_of(Bytes bytes) {
    Buffer out(bytes.size());
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  bool empty() const { return size_ == 0; }
  operator Bytes() const { return {data_, size_}; }
  operator MutableBytes() { return {data_, size_}; }
  Bytes bytes() const { return {data_, size_}; }
  MutableBytes mutable_bytes() { return {data_, size_}; }

  // Changes the size, keeping the common prefix; new bytes are uninitialised. Growing past the
  // capacity reallocates to at least double.
  void resize(std::size_t size) {
    if (size > capacity_) reserve(size > 2 * capacity_ ? size : 2 * capacity_);
    size_ = size;
  }
  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    std::byte* grown = allocate(capacity);
    if (size_ != 0) std::memcpy(grown, data_, size_);
    std::free(data_);
    data_ = grown;
    capacity_ = capacity;
  }
  void append(Bytes bytes) {
    if (bytes.empty()) return;
    const std::size_t at = size_;
    resize(at + bytes.size());
    std::memcpy(data_ + at, bytes.data(), bytes.size());
  }

 private:
  // Small buffers need no page alignment, and aligned_alloc would waste most of a page on them.
  static std::byte* allocate(std::size_t size) {
    if (size == 0) return nullptr;
    void* memory = size < 64 * kKiB ? std::malloc(size)
                                    : std::aligned_alloc(
                                          kAlignment, (size + kAlignment - 1) & ~(kAlignment - 1));
    if (memory == nullptr) std::abort();
    return static_cast<std::byte*>(memory);
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

// A number that means one thing. Converts from and to the raw value only by name.
template <class Tag>
struct Id {
  u64 value{};
  friend auto operator<=>(Id, Id) = default;
};

// Writer term (DESIGN section 4): taken by every process that opens the database for writing.
using Term = Id<struct TermTag>;
// Position of a log object within its term, from 0.
using Seq = Id<struct SeqTag>;
// term (24 bits) << 40 | "born above a parent" (1 bit) << 39 | counter (39 bits). Never reused.
using ObjectId = Id<struct ObjectIdTag>;

constexpr u64 kObjectParentBit = u64{1} << 39;
inline bool born_above_parent(ObjectId id) {
  return (id.value & kObjectParentBit) != 0;
}

[[noreturn]] void invariant_failed(const char* condition, const char* file, int line);

// Our own bugs end the process, in release builds too: a wrong byte is worse than a restart.
// Never for bytes that came from a store, a disk or a socket.
#define INVARIANT(condition)          \
  (__builtin_expect(!!(condition), 1) \
       ? static_cast<void>(0)         \
       : ::zerofs::invariant_failed(#condition, __FILE__, __LINE__))

}  // namespace zerofs
