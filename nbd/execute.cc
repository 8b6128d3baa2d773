// What requests do, and how they are answered.
#include <algorithm>

#include "nbd/connection.h"

namespace zerofs::nbd {

namespace {

constexpr u32 kExtentsMax = 1 << 16;  // in one block status reply

u32 state_of(ExtentKind kind) {
  switch (kind) {
    case ExtentKind::data: return 0;
    case ExtentKind::zero: return kStateZero;
    case ExtentKind::hole: break;
  }
  return kStateHole | kStateZero;
}

// Zeroing whole pages changes only metadata; parts of pages have to be read and written.
bool can_be_fast(const Request& request) {
  return (request.offset | request.length) % kPageBytes == 0;
}

}  // namespace

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

void Connection::execute(const Request& request) {
  switch (request.command) {
    case Command::read:
      if (!reading_fast(request)) gate_.spawn(read_slow(request));
      break;
    case Command::block_status: gate_.spawn(block_status(request)); break;
    case Command::flush:
    case Command::write:  // only without a payload
      after_change(request);
      break;
    case Command::write_zeroes:
      if ((request.flags & kCmdFastZero) != 0 && !can_be_fast(request)) {
        reply_error(request, Errno::notsup);
        break;
      }
      [[fallthrough]];
    case Command::trim:
    case Command::cache:
      if (request.length == 0) {
        after_change(request);
      } else {
        gate_.spawn(run_command(request));
      }
      break;
    case Command::disconnect: break;  // the end of input, see parse_requests()
  }
}

bool Connection::reading_fast(const Request& request) {
  if (is_answered_in_parts(request)) return false;
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

// What has no answer but success: TRIM, WRITE_ZEROES, CACHE.
Task<> Connection::run_command(Request request) {
  Object& object = volume_->object();
  Result<> done;
  if (request.command == Command::cache) {
    done = co_await as_result(db_.prefetch(object, request.offset, request.length));
  } else {
    volume_->mutation_begins();
    if (request.command == Command::trim) {
      done = co_await as_result(db_.discard(object, request.offset, request.length));
    } else {
      const bool stay_allocated = (request.flags & kCmdNoHole) != 0;
      done = co_await as_result(
          db_.write_zeroes(object, request.offset, request.length,
                           stay_allocated ? Db::ZeroAs::zero : Db::ZeroAs::hole));
    }
    volume_->mutation_ends();
  }
  if (done && request.fua()) done = co_await as_result(db_.wait_durable(db_.position()));
  reply_result(request, done);
  co_return {};
}

Task<> Connection::read_slow(Request request) {
  const Result<> sent = co_await as_result(send_parts(request));
  if (!sent) reply_error(request, errno_of(sent.error()));
  if (paused_) resume_later();
  co_return {};
}

// Parts are sent no faster than the client takes them.
Task<> Connection::send_parts(const Request& request) {
  const bool in_parts = is_answered_in_parts(request);
  const bool whole = (request.flags & kCmdDf) != 0;
  for (u32 at = 0;;) {
    const u32 left = request.length - at;
    const u32 count = in_parts ? std::min(left, part_bytes()) : left;
    reading_bytes_ += count;
    account();
    std::vector<Piece> pieces;
    const Result<> read =
        co_await as_result(db_.read(volume_->object(), request.offset + at, count, pieces));
    reading_bytes_ -= count;
    if (!read) co_return read;
    const bool last = count == left;
    reply_read(request.cookie, request.offset + at, pieces, last, whole);
    if (last) co_return {};
    at += count;
    while (!dead_ && must_pause(part_bytes())) co_await drained_.wait();
    if (dead_) co_return {};
  }
}

Task<> Connection::block_status(Request request) {
  const u32 count_max = (request.flags & kCmdReqOne) != 0 ? 1 : kExtentsMax;
  const Result<std::vector<Extent>> extents =
      co_await as_result(db_.extents(volume_->object(), request.offset, request.length, count_max));
  if (!extents) {
    reply_result(request, std::unexpected(extents.error()));
    co_return {};
  }
  ChunkHeader header;
  header.flags = kChunkDone;
  header.type = static_cast<u16>(Chunk::block_status);
  header.cookie = request.cookie;
  header.length = static_cast<u32>(4 + extents->size() * 8);
  output_.add_struct(header);
  output_.add_struct(Be<u32>(kAllocationId));
  for (const Extent& extent : *extents) {
    INVARIANT(extent.bytes <= request.length);
    output_.add_struct(Be<u32>(static_cast<u32>(extent.bytes)));
    output_.add_struct(Be<u32>(state_of(extent.kind)));
  }
  queue_output();
  if (paused_) resume_later();
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
  const bool chunked =
      structured_ && (request.command == Command::read || request.command == Command::block_status);
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
