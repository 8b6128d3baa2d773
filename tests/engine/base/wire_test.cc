// Goal: what Writer wrote Reader reads; any other bytes make it fail, never read beyond their end.
#include "engine/base/wire.h"

#include <doctest/doctest.h>

#include <random>

namespace zerofs {
namespace {

TEST_CASE("integers have their byte order") {
  const Be<u32> be = 0x01020304u;
  CHECK(be.raw[0] == std::byte{1});
  const Le<u32> le = 0x01020304u;
  CHECK(le.raw[0] == std::byte{4});
  CHECK(u32{be} == u32{le});
}

TEST_CASE("round trip, and every truncation fails") {
  Writer writer;
  for (const u64 value : {u64{0}, u64{127}, u64{128}, u64{1} << 35, ~u64{0}})
    writer.put_varint(value);
  writer.put<u16>(0xbeef);
  writer.put_text("hello");
  const Bytes whole = writer.bytes();
  const auto read = [](Bytes bytes) {
    Reader in(bytes);
    bool same = in.get_varint() == 0 && in.get_varint() == 127 && in.get_varint() == 128;
    same = same && in.get_varint() == u64{1} << 35 && in.get_varint() == ~u64{0};
    same = same && in.get<u16>() == 0xbeef && in.get_text() == "hello";
    return same && in.ok() && in.at_end();
  };
  CHECK(read(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) CHECK_FALSE(read(whole.first(size)));
}

TEST_CASE("overlong varints and wild lengths fail") {
  const std::vector<std::byte> ones(11, std::byte{0xff});
  Reader overlong(ones);
  overlong.get_varint();
  CHECK_FALSE(overlong.ok());
  Writer wild;
  wild.put_varint(~u64{0});
  Reader in(wild.bytes());
  CHECK(in.get_bytes().empty());
  CHECK_FALSE(in.ok());
}

TEST_CASE("random bytes never make the reader run away") {
  std::mt19937 random(1);
  for (int round = 0; round < 10000; ++round) {
    std::vector<std::byte> bytes(random() % 40);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    Reader in(bytes);
    for (int i = 0; i < 50 && in.ok(); ++i) {
      switch (random() % 4) {
        case 0: in.get_varint(); break;
        case 1: in.get_bytes(); break;
        case 2: in.get<u64>(); break;
        default: in.get_raw(random() % 8); break;
      }
    }
    CHECK(in.left() <= bytes.size());
  }
}

}  // namespace
}  // namespace zerofs
