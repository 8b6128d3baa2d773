// Goal: frames and blobs come back as they went in, or as an error. Method: every page count, kind
// of content and compression; then damage.
#include "engine/format/frame.h"

#include <doctest/doctest.h>

#include "engine/format/compress.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

struct Pages {
  explicit Pages(Bytes content) {
    count = static_cast<u32>(content.size() / kPageBytes);
    for (u32 i = 0; i < count; ++i) at[i] = content.data() + i * kPageBytes;
  }
  operator std::span<const std::byte* const>() const { return {at, count}; }
  const std::byte* at[kPagesPerFrameMax];
  u32 count;
};

constexpr Compression kStored{.stored = true};

}  // namespace

TEST_CASE("frames round-trip for every size, content and level") {
  Rng rng(2);
  ObjectCipher cipher(keys(), kSalt, "log/1", kRandom);
  Buffer object;
  for (const Compression compression : {kStored, Compression{.level = 1}, Compression{.level = -1},
                                        Compression{.level = -5}, Compression{.level = 3}}) {
    for (const Content content :
         {Content::zeroes, Content::text, Content::noise, Content::half_noise}) {
      for (u32 count = 1; count <= kPagesPerFrameMax; ++count) {
        CAPTURE(compression.level);
        CAPTURE(static_cast<int>(content));
        CAPTURE(count);
        // Pages in reverse order in memory, so that they are never contiguous.
        auto shuffled = make_content(rng, content, count * kPageBytes);
        std::vector<std::byte> plain;
        const std::byte* pages[kPagesPerFrameMax];
        for (u32 i = 0; i < count; ++i) {
          pages[i] = shuffled.data() + (count - 1 - i) * kPageBytes;
          plain.insert(plain.end(), pages[i], pages[i] + kPageBytes);
        }
        const u64 before = object.size();
        const u8 first = static_cast<u8>(rng() % (kPagesPerChunk - count + 1));
        const lsm::FramePointer frame =
            seal_frame(cipher, {pages, count}, first, compression, object);
        CHECK(frame.offset == align_piece(before));
        CHECK(object.size() == frame.offset + frame.stored_bytes);
        CHECK(frame.first_page == first);
        CHECK(frame.page_count == count);
        for (u64 i = before; i < frame.offset; ++i) CHECK(object.data()[i] == std::byte{0});
        // Half noise is a borderline case that the fastest level may give up on.
        const bool compressible = content != Content::noise && !compression.stored;
        const bool borderline = content == Content::half_noise && compression.level == -5;
        if (!borderline) CHECK(frame.codec == (compressible ? Codec::zstd : Codec::raw));
        const u32 raw_bytes = count * kPageBytes + kSealOverhead;
        if (frame.codec == Codec::raw) {
          CHECK(frame.stored_bytes == raw_bytes);
        } else {
          CHECK(frame.stored_bytes <= raw_bytes - count * kPageBytes / 16);
        }
        std::vector<std::byte> out(plain.size());
        REQUIRE(open_frame(cipher, frame, object.bytes().subspan(frame.offset, frame.stored_bytes),
                           out));
        CHECK(out == plain);
      }
    }
  }
}

TEST_CASE("a frame that zstd 1.5 compressed still opens") {
  // Pinned: 4096 bytes of "ab", at offset 32 of log/000001/0000000002.
  const auto sealed = from_hex(
      "40414243498d2a001482b51776758be2846743455009932a296d760afa38120fed53245d4cc4ac");
  ObjectCipher cipher(keys(), kSalt, log_name({1}, {2}));
  const lsm::FramePointer frame{.offset = 32,
                                .stored_bytes = static_cast<u32>(sealed.size()),
                                .first_page = 3,
                                .page_count = 1,
                                .codec = Codec::zstd};
  std::vector<std::byte> out(kPageBytes);
  REQUIRE(open_frame(cipher, frame, sealed, out));
  for (u32 i = 0; i < kPageBytes; ++i) REQUIRE(out[i] == static_cast<std::byte>("ab"[i % 2]));
}

TEST_CASE("any other pointer to a frame is refused") {
  Rng rng(3);
  ObjectCipher cipher(keys(), kSalt, "log/1", kRandom);
  for (const Content content : {Content::text, Content::noise}) {
    Buffer object;
    const auto plain = make_content(rng, content, 2 * kPageBytes);
    const lsm::FramePointer right = seal_frame(cipher, Pages(plain), 4, {}, object);
    const Bytes sealed = object;
    const auto refused = [&](lsm::FramePointer frame, Bytes bytes) {
      std::vector<std::byte> out(frame.page_count * kPageBytes);
      const Result<> opened = open_frame(cipher, frame, bytes, out);
      return !opened && opened.error().code() == Code::corrupt;
    };
    lsm::FramePointer wrong = right;
    CHECK_FALSE(refused(right, sealed));
    wrong.offset += 16;
    CHECK(refused(wrong, sealed));
    wrong = right;
    wrong.page_count = 1;
    CHECK(refused(wrong, sealed));
    wrong.page_count = 3;
    CHECK(refused(wrong, sealed));
    wrong = right;
    wrong.codec = right.codec == Codec::raw ? Codec::zstd : Codec::raw;
    CHECK(refused(wrong, sealed));
    wrong.codec = static_cast<Codec>(2);
    CHECK(refused(wrong, sealed));
    wrong = right;
    wrong.stored_bytes -= 1;
    CHECK(refused(wrong, sealed));
    CHECK(refused(wrong, sealed.first(wrong.stored_bytes)));
    for (u32 size = 0; size < right.stored_bytes; size += size < 64 ? 1 : 97) {
      wrong.stored_bytes = size;
      CHECK(refused(wrong, sealed.first(size)));
    }
  }
}

TEST_CASE("looks_random says so of noise alone") {
  Rng rng(4);
  u32 noise_missed = 0;
  for (u32 i = 0; i < 2000; ++i) {
    const u32 count = 1 + i % kPagesPerFrameMax;
    auto content = make_content(rng, Content::noise, count * kPageBytes);
    if (!looks_random(Pages(content))) ++noise_missed;
  }
  CHECK(noise_missed <= 20);  // a miss only costs an attempt

  for (u32 count = 1; count <= kPagesPerFrameMax; ++count) {
    CAPTURE(count);
    for (const Content content : {Content::zeroes, Content::text, Content::half_noise}) {
      CHECK_FALSE(looks_random(Pages(make_content(rng, content, count * kPageBytes))));
    }
    // An array of 64-bit integers with random low halves; one page of text among random ones.
    auto numbers = make_content(rng, Content::noise, count * kPageBytes);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (i % 8 >= 4) numbers[i] = {};
    }
    CHECK_FALSE(looks_random(Pages(numbers)));
    auto mixed = make_content(rng, Content::noise, count * kPageBytes);
    std::ranges::copy(make_content(rng, Content::text, kPageBytes), mixed.begin());
    CHECK_FALSE(looks_random(Pages(mixed)));
  }
}

TEST_CASE("blobs round-trip, and only under their own pointer") {
  Rng rng(5);
  ObjectCipher cipher(keys(), kSalt, "sst/1", kRandom);
  for (const std::size_t size : {0u, 1u, 100u, 5000u, 300000u}) {
    for (const Content content : {Content::text, Content::noise}) {
      for (const Compression compression : {kStored, Compression{}}) {
        CAPTURE(size);
        Buffer object(5);
        const auto plain = make_content(rng, content, size);
        const BlobPointer blob =
            seal_blob(cipher, PieceKind::table_index, plain, compression, object);
        CHECK(blob.offset == 16);
        CHECK(object.size() == blob.offset + blob.stored_bytes);
        CHECK(blob.plain_bytes == size);
        const Bytes sealed = object.bytes().subspan(blob.offset);
        const Result<Buffer> opened = open_blob(cipher, PieceKind::table_index, blob, sealed);
        REQUIRE(opened);
        CHECK(std::ranges::equal(opened->bytes(), plain));

        const auto refused = [&](const BlobPointer& pointer, Bytes bytes, PieceKind kind) {
          const Result<Buffer> got = open_blob(cipher, kind, pointer, bytes);
          return !got && got.error().code() == Code::corrupt;
        };
        CHECK(refused(blob, sealed, PieceKind::layer));
        BlobPointer wrong = blob;
        wrong.offset = 32;
        CHECK(refused(wrong, sealed, PieceKind::table_index));
        wrong = blob;
        wrong.plain_bytes += 1;
        CHECK(refused(wrong, sealed, PieceKind::table_index));
        wrong.plain_bytes = UINT32_MAX;
        CHECK(refused(wrong, sealed, PieceKind::table_index));
        wrong = blob;
        wrong.codec = blob.codec == Codec::raw ? Codec::zstd : Codec::raw;
        CHECK(refused(wrong, sealed, PieceKind::table_index));
        wrong.codec = static_cast<Codec>(77);
        CHECK(refused(wrong, sealed, PieceKind::table_index));
        for (std::size_t cut = 0; cut < std::min<std::size_t>(sealed.size(), 40); ++cut) {
          wrong = blob;
          wrong.stored_bytes = static_cast<u32>(cut);
          CHECK(refused(wrong, sealed.first(cut), PieceKind::table_index));
        }
      }
    }
  }
}

}  // namespace zerofs::format
