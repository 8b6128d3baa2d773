// What requests do, and how they are answered.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "nbd/connection.h"

namespace zerofs::nbd {

namespace {

constexpr u32 kExtentsMax = 1 << 16;        // in one block status reply
constexpr u32 kReadStepBytes = 8u << 20;    // of a structured read larger than the payload limit
constexpr u32 kExtentBytesMax = UINT32_MAX & ~u32{511};

Errno errno_of(const Error& error) {
  switch (error.code()) {
    case Code::no_space: return Errno::nospc;
    case Code::invalid: return Errno::inval;
    case Code::denied: return Errno::perm;
    case Code::fenced:
    case Code::cancelled: return Errno::shutdown;
    default: return Errno::io;
  }
}

u32 state_of(ExtentKind kind) {
  switch (kind) {
    case ExtentKind::data: return 0;
    case ExtentKind::zero: return kStateZero;
    case ExtentKind::hole: break;
  }
  return kStateHole | kStateZero;
}

}  // namespace

void Connection::execute(const Request& request) {
  switch (request.command) {
    case Command::read:
      if (reading_fast(request)) return;
      break;
    case Command::flush:
      after_change(request);
      return;
    case Command::write:  // only without a payload
      after_change(request);
      return;
    case Command::trim:
    case Command::write_zeroes:
      if (request.length == 0) {
        after_change(request);
        return;
      }
      if ((request.flags & kCmdFastZero) != 0 &&
          (request.offset | request.length) % kPageBytes != 0) {
        // Parts of pages have to be read and written: not faster than a write.
        reply_error(request, Errno::notsup);
        return;
      }
      volume_->mutation_begins();
      break;
    default: break;
  }
  gate_.spawn(slow(request));
}

bool Connection::reading_fast(const Request& request) {
  if (request.length > kPayloadBytesMax) return false;
  pieces_.clear();
  if (!db_.try_read(volume_->object(), request.offset, request.length, pieces_)) return false;
  reply_read(request.cookie, request.offset, pieces_, true, (request.flags & kCmdDf) != 0);
  return true;
}

// A change was applied, or nothing needed to be; answers now, or once it is durable.
void Connection::after_change(const Request& request) {
  if (!request.fua() && request.command != Command::flush) {
    reply_ok(request.cookie);
    return;
  }
  if (db_.is_durable(db_.position())) {
    reply_ok(request.cookie);
    return;
  }
  gate_.spawn(finish_durably(request));
}

Task<> Connection::finish_durably(Request request) {
  const Result<> durable = co_await as_result(db_.wait_durable(db_.position()));
  reply_result(request, durable);
  co_return {};
}

Task<> Connection::slow_write(Request request, Buffer data) {
  Result<> written = co_await as_result(db_.write(volume_->object(), request.offset, data));
  volume_->mutation_ends();
  waiting_bytes_ -= data.size();
  if (written && request.fua()) {
    written = co_await as_result(db_.wait_durable(db_.position()));
  }
  reply_result(request, written);
  co_return {};
}

Task<> Connection::slow(Request request) {
  Result<> result = co_await as_result(execute_slow(request));
  const bool changes =
      request.command == Command::trim || request.command == Command::write_zeroes;
  if (changes) {
    volume_->mutation_ends();
    if (result && request.fua()) {
      result = co_await as_result(db_.wait_durable(db_.position()));
    }
  }
  // Reads and block status answer by themselves when they succeed.
  const bool answered =
      request.command == Command::read || request.command == Command::block_status;
  if (!result || !answered) reply_result(request, result);
  co_return {};
}

Task<> Connection::execute_slow(Request request) {
  Object& object = volume_->object();
  switch (request.command) {
    case Command::read: co_await read_slow(request); break;
    case Command::trim: co_await db_.discard(object, request.offset, request.length); break;
    case Command::cache:
      if (request.length != 0) co_await db_.prefetch(object, request.offset, request.length);
      break;
    case Command::write_zeroes: {
      const auto as =
          (request.flags & kCmdNoHole) != 0 ? Db::ZeroAs::zero : Db::ZeroAs::hole;
      co_await db_.write_zeroes(object, request.offset, request.length, as);
      break;
    }
    case Command::block_status: co_await block_status(request); break;
    default: break;
  }
  co_return {};
}

Task<> Connection::read_slow(const Request& request) {
  // Beyond the payload limit (structured replies only) the answer is sent in parts, no faster than
  // the client takes them.
  const u32 step = request.length > kPayloadBytesMax ? kReadStepBytes : request.length;
  for (u64 at = 0; at < request.length || request.length == 0;) {
    const u32 count = static_cast<u32>(std::min<u64>(step, request.length - at));
    std::vector<Piece> pieces;
    co_await db_.read(volume_->object(), request.offset + at, count, pieces);
    const bool last = at + count == request.length;
    reply_read(request.cookie, request.offset + at, pieces, last, (request.flags & kCmdDf) != 0);
    at += count;
    if (last) break;
    while (output_.queued_bytes() > kQueuedBytesMax && !dead_) co_await drained_.wait();
    if (dead_) co_return {};
  }
  co_return {};
}

Task<> Connection::block_status(const Request& request) {
  const u32 count_max = (request.flags & kCmdReqOne) != 0 ? 1 : kExtentsMax;
  const std::vector<Extent> extents = co_await db_.extents(
      volume_->object(), request.offset, request.length, count_max);
  // Extents end on multiples of 512, except at the end of an unaligned request.
  ChunkHeader header;
  header.flags = kChunkDone;
  header.type = static_cast<u16>(Chunk::block_status);
  header.cookie = request.cookie;
  header.length = static_cast<u32>(4 + extents.size() * 8);
  output_.add_struct(header);
  output_.add_struct(Be<u32>(1));
  for (const Extent& extent : extents) {
    output_.add_struct(Be<u32>(static_cast<u32>(std::min<u64>(extent.bytes, kExtentBytesMax))));
    output_.add_struct(Be<u32>(state_of(extent.kind)));
  }
  queue_output();
  co_return {};
}

// ---- replies

void Connection::reply_ok(u64 cookie) {
  SimpleReply reply;
  reply.cookie = cookie;
  output_.add_struct(reply);
  queue_output();
}

void Connection::reply_error(const Request& request, Errno error) {
  const bool chunked = structured_ && (request.command == Command::read ||
                                       request.command == Command::block_status);
  if (!chunked) {
    SimpleReply reply;
    reply.error = static_cast<u32>(error);
    reply.cookie = request.cookie;
    output_.add_struct(reply);
  } else {
    ChunkHeader header;
    header.flags = kChunkDone;
    header.type = static_cast<u16>(Chunk::error);
    header.cookie = request.cookie;
    header.length = 6;
    output_.add_struct(header);
    output_.add_struct(Be<u32>(static_cast<u32>(error)));
    output_.add_struct(Be<u16>(0));
  }
  queue_output();
}

void Connection::reply_result(const Request& request, const Result<>& result) {
  if (result) {
    reply_ok(request.cookie);
  } else {
    reply_error(request, errno_of(result.error()));
  }
  // A request has ended: the connection may go on, or end.
  if (paused_) resume_later();
}

// Takes over the pins. `whole`: in one piece, zeroes included (DF).
void Connection::reply_read(u64 cookie, u64 offset, std::span<const Piece> pieces, bool last,
                            bool whole) {
  queue_output();
  if (!structured_) {
    SimpleReply reply;
    reply.cookie = cookie;
    output_.add_struct(reply);
    output_.add_pieces(pieces);
    return;
  }
  if (pieces.empty()) {
    ChunkHeader header;
    header.flags = kChunkDone;
    header.type = static_cast<u16>(Chunk::none);
    header.cookie = cookie;
    header.length = 0;
    output_.add_struct(header);
    return;
  }
  // Runs of data and runs of zeroes, one chunk each.
  for (std::size_t i = 0; i < pieces.size();) {
    const bool zeroes = pieces[i].is_zeroes() && !whole;
    std::size_t end = i;
    u64 bytes = 0;
    while (end < pieces.size() && (whole || pieces[end].is_zeroes() == zeroes)) {
      bytes += pieces[end++].bytes;
    }
    ChunkHeader header;
    header.flags = last && end == pieces.size() ? kChunkDone : u16{0};
    header.type = static_cast<u16>(zeroes ? Chunk::offset_hole : Chunk::offset_data);
    header.cookie = cookie;
    header.length = static_cast<u32>(zeroes ? 12 : 8 + bytes);
    output_.add_struct(header);
    output_.add_struct(Be<u64>(offset));
    if (zeroes) {
      output_.add_struct(Be<u32>(static_cast<u32>(bytes)));
    } else {
      output_.add_pieces(pieces.subspan(i, end - i));
    }
    offset += bytes;
    i = end;
  }
}

}  // namespace zerofs::nbd
