// Integers with a fixed byte order and no alignment, so that a struct of them documents a layout,
// and a cursor pair for the variable parts.
#pragma once

#include <bit>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/base/result.h"

namespace zerofs {

namespace detail {
template <class T, std::endian Order>
struct [[gnu::packed]] Wire {
  static_assert(std::is_unsigned_v<T>);
  std::byte raw[sizeof(T)]{};

  Wire() = default;
  Wire(T value) {
    if constexpr (Order != std::endian::native && sizeof(T) > 1) value = std::byteswap(value);
    std::memcpy(raw, &value, sizeof value);
  }
  operator T() const {
    T value;
    std::memcpy(&value, raw, sizeof value);
    if constexpr (Order != std::endian::native && sizeof(T) > 1) value = std::byteswap(value);
    return value;
  }
};
}  // namespace detail

template <class T>
using Le = detail::Wire<T, std::endian::little>;
template <class T>
using Be = detail::Wire<T, std::endian::big>;
static_assert(sizeof(Le<u64>) == 8 && alignof(Le<u64>) == 1);

// A wire struct as bytes, and back. `T` consists of Le, Be and byte arrays only.
template <class T>
Bytes struct_bytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) == 1);
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}
template <class T>
T struct_from(Bytes bytes) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) == 1);
  INVARIANT(bytes.size() >= sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Appends to a growing byte vector. Integers are little-endian, varints LEB128 (at most 10 bytes),
// strings and byte strings a varint length and then the bytes.
class Writer {
 public:
  template <class T>
  void put(T value) {
    static_assert(std::is_unsigned_v<T>);
    const Le<T> le = value;
    put_raw({le.raw, sizeof le.raw});
  }
  void put_varint(u64 value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<std::byte>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<std::byte>(value));
  }
  void put_raw(Bytes bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void put_bytes(Bytes bytes) {
    put_varint(bytes.size());
    put_raw(bytes);
  }
  void put_text(std::string_view text) { put_bytes(bytes_of(text)); }

  std::size_t size() const { return out_.size(); }
  Bytes bytes() const { return out_; }
  std::vector<std::byte> take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

// Reads what Writer wrote from bytes that may be anything. The first shortage or overlong varint
// makes it fail; from then on every get returns zero or empty. Ask `ok()` once, before acting on
// what was read, and before trusting a count enough to allocate for it.
class Reader {
 public:
  explicit Reader(Bytes bytes) : rest_(bytes) {}

  template <class T>
  T get() {
    const Bytes raw = get_raw(sizeof(T));
    if (raw.size() != sizeof(T)) return 0;
    Le<T> le;
    std::memcpy(le.raw, raw.data(), sizeof(T));
    return le;
  }
  u64 get_varint() {
    u64 value = 0;
    for (u32 shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const u64 byte = static_cast<u8>(rest_.front());
      rest_ = rest_.subspan(1);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail_now();
    return 0;
  }
  Bytes get_raw(u64 size) {
    if (size > rest_.size()) {
      fail_now();
      return {};
    }
    const Bytes out = rest_.first(size);
    rest_ = rest_.subspan(size);
    return out;
  }
  Bytes get_bytes() { return get_raw(get_varint()); }
  std::string_view get_text() { return text_of(get_bytes()); }

  bool ok() const { return ok_; }
  bool at_end() const { return rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

 private:
  void fail_now() {
    ok_ = false;
    rest_ = {};
  }
  Bytes rest_;
  bool ok_ = true;
};

}  // namespace zerofs
