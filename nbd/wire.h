// The NBD protocol on the wire: constants and layouts, big-endian.
// Source: the protocol document doc/proto.md of the NBD project, text of 2025-06.
#pragma once

#include "engine/base/wire.h"

namespace zerofs::nbd {

// ---- negotiation (fixed newstyle)
constexpr u64 kInitMagic = 0x4e42444d41474943;    // "NBDMAGIC"
constexpr u64 kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
constexpr u64 kOptionReplyMagic = 0x3e889045565a9;

constexpr u16 kFlagFixedNewstyle = 1 << 0;
constexpr u16 kFlagNoZeroes = 1 << 1;

enum class Option : u32 {
  export_name = 1,
  abort = 2,
  list = 3,
  peek_export = 4,
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

constexpr u32 kRepAck = 1;
constexpr u32 kRepServer = 2;
constexpr u32 kRepInfo = 3;
constexpr u32 kRepMetaContext = 4;
constexpr u32 kRepErrUnsup = 0x80000001;
constexpr u32 kRepErrPolicy = 0x80000002;
constexpr u32 kRepErrInvalid = 0x80000003;
constexpr u32 kRepErrPlatform = 0x80000004;
constexpr u32 kRepErrUnknown = 0x80000006;
constexpr u32 kRepErrShutdown = 0x80000007;
constexpr u32 kRepErrTooBig = 0x80000009;

enum class Info : u16 { export_ = 0, name = 1, description = 2, block_size = 3 };

struct Greeting {
  Be<u64> init_magic = kInitMagic;
  Be<u64> option_magic = kOptionMagic;
  Be<u16> flags;
};
static_assert(sizeof(Greeting) == 18);

struct OptionHeader {
  Be<u64> magic;
  Be<u32> option;
  Be<u32> length;
};
static_assert(sizeof(OptionHeader) == 16);

struct OptionReply {
  Be<u64> magic = kOptionReplyMagic;
  Be<u32> option;
  Be<u32> type;
  Be<u32> length;
};
static_assert(sizeof(OptionReply) == 20);

// ---- transmission flags
constexpr u16 kHasFlags = 1 << 0;
constexpr u16 kReadOnly = 1 << 1;
constexpr u16 kSendFlush = 1 << 2;
constexpr u16 kSendFua = 1 << 3;
constexpr u16 kSendTrim = 1 << 5;
constexpr u16 kSendWriteZeroes = 1 << 6;
constexpr u16 kSendDf = 1 << 7;
constexpr u16 kCanMultiConn = 1 << 8;
constexpr u16 kSendCache = 1 << 10;
constexpr u16 kSendFastZero = 1 << 11;

// ---- requests
constexpr u32 kRequestMagic = 0x25609513;

enum class Command : u16 {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

constexpr u16 kCmdFua = 1 << 0;
constexpr u16 kCmdNoHole = 1 << 1;
constexpr u16 kCmdDf = 1 << 2;
constexpr u16 kCmdReqOne = 1 << 3;
constexpr u16 kCmdFastZero = 1 << 4;

struct RequestHeader {
  Be<u32> magic;
  Be<u16> flags;
  Be<u16> type;
  Be<u64> cookie;
  Be<u64> offset;
  Be<u32> length;
};
static_assert(sizeof(RequestHeader) == 28 && alignof(RequestHeader) == 1);

// ---- replies
constexpr u32 kSimpleReplyMagic = 0x67446698;
constexpr u32 kStructuredReplyMagic = 0x668e33ef;

struct SimpleReply {
  Be<u32> magic = kSimpleReplyMagic;
  Be<u32> error;
  Be<u64> cookie;
};
static_assert(sizeof(SimpleReply) == 16);

constexpr u16 kChunkDone = 1 << 0;
enum class Chunk : u16 {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  error = 1 << 15 | 1,
  error_offset = 1 << 15 | 2,
};

struct ChunkHeader {
  Be<u32> magic = kStructuredReplyMagic;
  Be<u16> flags;
  Be<u16> type;
  Be<u64> cookie;
  Be<u32> length;
};
static_assert(sizeof(ChunkHeader) == 20);

// ---- errors that may appear on the wire
enum class Errno : u32 {
  ok = 0,
  perm = 1,
  io = 5,
  nomem = 12,
  inval = 22,
  nospc = 28,
  overflow = 75,
  notsup = 95,
  shutdown = 108,
};

// ---- base:allocation
constexpr u32 kAllocationId = 1;  // of the context, as we name it
constexpr u32 kStateHole = 1 << 0;
constexpr u32 kStateZero = 1 << 1;

// ---- limits, ours and the protocol's
constexpr u32 kPayloadBytesMax = 32u << 20;       // READ and WRITE; advertised
constexpr u32 kPayloadDrainBytesMax = 64u << 20;  // a longer WRITE ends the connection
constexpr u32 kOptionParseBytesMax = 64u << 10;   // a longer option is drained…
constexpr u32 kOptionDrainBytesMax = 32u << 20;   // …up to here
constexpr u32 kNameBytesMax = 4096;
constexpr u32 kDfBytesMax = 65536;  // what DF must be able to do

}  // namespace zerofs::nbd
