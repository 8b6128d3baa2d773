// Goal: every row of the table of bad requests gives the error that the protocol asks for, and
// any 28 bytes give some answer. Method: one row of a table per case; random bytes for the rest.
#include "nbd/request.h"

#include <doctest/doctest.h>

#include <random>

namespace zerofs::nbd {
namespace {

constexpr u64 kSize = 1 * kGiB;

constexpr ExportState kSimple = {.size = kSize};
constexpr ExportState kReadOnlyExport = {.size = kSize, .read_only = true};
constexpr ExportState kStructured = {.size = kSize, .structured = true, .has_context = true};
constexpr ExportState kNoContext = {.size = kSize, .structured = true};
constexpr ExportState kLarge = {.size = 64 * kTiB, .structured = true, .has_context = true};
constexpr ExportState kLargeSimple = {.size = 64 * kTiB};

struct Row {
  const char* what;
  ExportState state;
  u32 type;
  u32 flags;
  u64 offset;
  u32 length;
  Errno error;
};

constexpr u32 kRead = 0, kWrite = 1, kDisconnect = 2, kFlush = 3, kTrim = 4, kCache = 5,
              kZeroes = 6, kStatus = 7;
constexpr u32 kPayloadMax = 32 * kMiB;

const Row kRows[] = {
    {"read", kSimple, kRead, 0, 0, 4096, Errno::ok},
    {"read the last byte", kSimple, kRead, 0, kSize - 1, 1, Errno::ok},
    {"read beyond the end", kSimple, kRead, 0, kSize - 1, 2, Errno::inval},
    {"read of nothing at the end", kSimple, kRead, 0, kSize, 0, Errno::ok},
    {"offset + length overflows", kSimple, kRead, 0, ~u64{0} - 10, 4096, Errno::inval},
    {"write: offset + length overflows", kSimple, kWrite, 0, ~u64{0} - 10, 4096, Errno::nospc},
    {"write beyond the end", kSimple, kWrite, 0, kSize - 4096, 4097, Errno::nospc},
    {"zeroes beyond the end", kSimple, kZeroes, 0, kSize, 1, Errno::nospc},
    {"trim beyond the end", kSimple, kTrim, 0, kSize, 1, Errno::inval},
    {"cache beyond the end", kSimple, kCache, 0, kSize, 1, Errno::inval},
    {"status beyond the end", kStructured, kStatus, 0, kSize, 1, Errno::inval},
    {"unknown command", kSimple, 8, 0, 0, 0, Errno::inval},
    {"resize draft", kSimple, 16, 0, 0, 0, Errno::inval},
    {"unknown command, all bits", kSimple, 0xffff, 0, 0, 0, Errno::inval},
    {"unknown flag", kSimple, kRead, 1 << 7, 0, 1, Errno::inval},
    {"FAST_ZERO on write", kSimple, kWrite, kCmdFastZero, 0, 1, Errno::inval},
    {"NO_HOLE on trim", kSimple, kTrim, kCmdNoHole, 0, 1, Errno::inval},
    {"REQ_ONE on read", kSimple, kRead, kCmdReqOne, 0, 1, Errno::inval},
    {"DF on write", kStructured, kWrite, kCmdDf, 0, 1, Errno::inval},
    {"FUA on read", kSimple, kRead, kCmdFua, 0, 1, Errno::ok},
    {"FUA on write", kSimple, kWrite, kCmdFua, 0, 1, Errno::ok},
    {"FUA on flush", kSimple, kFlush, kCmdFua, 0, 0, Errno::ok},
    {"FUA on trim", kSimple, kTrim, kCmdFua, 0, 1, Errno::ok},
    {"FUA on cache", kSimple, kCache, kCmdFua, 0, 1, Errno::ok},
    {"FUA on zeroes", kSimple, kZeroes, kCmdFua, 0, 1, Errno::ok},
    {"FUA on status", kStructured, kStatus, kCmdFua, 0, 1, Errno::ok},
    {"zeroes with every flag", kSimple, kZeroes, kCmdFua | kCmdNoHole | kCmdFastZero, 0, 1,
     Errno::ok},
    {"read of nothing", kSimple, kRead, 0, 0, 0, Errno::ok},
    {"write of nothing", kSimple, kWrite, 0, 0, 0, Errno::ok},
    {"trim of nothing", kSimple, kTrim, 0, 0, 0, Errno::ok},
    {"zeroes of nothing", kSimple, kZeroes, 0, 0, 0, Errno::ok},
    {"cache of nothing", kSimple, kCache, 0, 0, 0, Errno::ok},
    {"read of the limit", kSimple, kRead, 0, 0, kPayloadMax, Errno::ok},
    {"read over the limit, simple", kSimple, kRead, 0, 0, kPayloadMax + 1, Errno::inval},
    {"read over the limit, structured", kStructured, kRead, 0, 0, kPayloadMax + 1, Errno::ok},
    {"read over the limit, DF", kStructured, kRead, kCmdDf, 0, kPayloadMax + 1, Errno::overflow},
    {"read DF", kStructured, kRead, kCmdDf, 0, 65536, Errno::ok},
    {"read DF, not negotiated", kSimple, kRead, kCmdDf, 0, 1, Errno::inval},
    {"write of the limit", kSimple, kWrite, 0, 0, kPayloadMax, Errno::ok},
    {"write over the limit", kSimple, kWrite, 0, 0, kPayloadMax + 1, Errno::inval},
    {"trim of 4 GiB", kLargeSimple, kTrim, 0, 0, ~u32{0}, Errno::ok},
    {"zeroes of 4 GiB", kLargeSimple, kZeroes, 0, 1, ~u32{0}, Errno::ok},
    {"cache of 4 GiB", kLargeSimple, kCache, 0, 1, ~u32{0}, Errno::ok},
    {"status of 4 GiB", kLarge, kStatus, 0, 1, ~u32{0}, Errno::ok},
    {"flush", kSimple, kFlush, 0, 0, 0, Errno::ok},
    {"flush with an offset", kSimple, kFlush, 0, 1, 0, Errno::inval},
    {"flush with a length", kSimple, kFlush, 0, 0, 1, Errno::inval},
    {"flush on read-only", kReadOnlyExport, kFlush, 0, 0, 0, Errno::ok},
    {"disconnect", kSimple, kDisconnect, 0, 0, 0, Errno::ok},
    {"disconnect with odd fields", kSimple, kDisconnect, 0, ~u64{0}, ~u32{0}, Errno::ok},
    {"write on read-only", kReadOnlyExport, kWrite, 0, 0, 1, Errno::perm},
    {"trim on read-only", kReadOnlyExport, kTrim, 0, 0, 1, Errno::perm},
    {"zeroes on read-only", kReadOnlyExport, kZeroes, 0, 0, 1, Errno::perm},
    {"read on read-only", kReadOnlyExport, kRead, 0, 0, 1, Errno::ok},
    {"read-only comes before the range", kReadOnlyExport, kWrite, 0, kSize, 1, Errno::perm},
    {"read-only comes before flags", kReadOnlyExport, kWrite, kCmdDf, 0, 1, Errno::perm},
    {"the range comes before flags", kSimple, kWrite, kCmdDf, kSize, 1, Errno::nospc},
    {"unaligned", kSimple, kWrite, 0, 13, 77, Errno::ok},
    {"status without a context", kNoContext, kStatus, 0, 0, 1, Errno::inval},
    {"status, simple replies", kSimple, kStatus, 0, 0, 1, Errno::inval},
    {"status of one", kStructured, kStatus, kCmdReqOne, 0, 4096, Errno::ok},
};

RequestHeader header_of(u32 type, u32 flags, u64 offset, u32 length) {
  RequestHeader header;
  header.magic = kRequestMagic;
  header.flags = static_cast<u16>(flags);
  header.type = static_cast<u16>(type);
  header.cookie = 0x1122334455667788;
  header.offset = offset;
  header.length = length;
  return header;
}

TEST_CASE("each row of the table") {
  for (const Row& row : kRows) {
    CAPTURE(row.what);
    const ParsedRequest parsed =
        parse_request(header_of(row.type, row.flags, row.offset, row.length), row.state);
    CHECK(!parsed.close);
    CHECK(parsed.error == row.error);
    CHECK(parsed.request.cookie == 0x1122334455667788);
    CHECK(parsed.payload_bytes == (row.type == kWrite ? row.length : 0));
  }
}

TEST_CASE("only a wrong magic and an endless payload end the connection") {
  RequestHeader header = header_of(kRead, 0, 0, 1);
  header.magic = kRequestMagic + 1;
  CHECK(parse_request(header, kSimple).close);
  header = header_of(kWrite, 0, 0, 64 * kMiB);
  CHECK(!parse_request(header, kLargeSimple).close);
  CHECK(parse_request(header, kLargeSimple).payload_bytes == 64 * kMiB);
  CHECK(parse_request(header, kLargeSimple).error == Errno::inval);
  header = header_of(kWrite, 0, 0, 64 * kMiB + 1);
  CHECK(parse_request(header, kLargeSimple).close);
}

TEST_CASE("the layout of a request") {
  const RequestHeader header = header_of(kZeroes, kCmdFua | kCmdFastZero, 0x0102030405060708, 9);
  const u8 golden[28] = {0x25, 0x60, 0x95, 0x13, 0x00, 0x11, 0x00, 0x06, 0x11, 0x22,
                         0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x01, 0x02, 0x03, 0x04,
                         0x05, 0x06, 0x07, 0x08, 0x00, 0x00, 0x00, 0x09};
  CHECK(std::memcmp(&header, golden, sizeof golden) == 0);
}

TEST_CASE("whatever passes is inside the export") {
  std::mt19937_64 random(7);
  for (u32 i = 0; i < 200'000; ++i) {
    const RequestHeader header = header_of(random() % 9, random() % 4 == 0 ? random() % 64 : 0,
                                           random() % 2 == 0 ? random() % (2 * kSize) : random(),
                                           static_cast<u32>(random()));
    const ExportState state = {.size = kSize,
                               .read_only = random() % 4 == 0,
                               .structured = random() % 2 == 0,
                               .has_context = random() % 2 == 0};
    const ParsedRequest parsed = parse_request(header, state);
    if (parsed.close || parsed.error != Errno::ok) continue;
    const Request& request = parsed.request;
    if (request.command == Command::disconnect || request.command == Command::flush) continue;
    REQUIRE(request.offset <= state.size);
    REQUIRE(request.length <= state.size - request.offset);
    if (state.read_only) REQUIRE(request.command != Command::write);
  }
}

}  // namespace
}  // namespace zerofs::nbd
