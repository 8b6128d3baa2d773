// Input and output of a connection; what requests do is in execute.cc.
#include "nbd/connection.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace zerofs::nbd {

Connection::Connection(Server& server, int fd)
    : server_(server),
      reactor_(server.reactor_),
      db_(server.db_),
      fd_(fd),
      negotiation_(*this),
      input_(kInputBytesMin),
      output_(server.db_),
      receive_op_(*this, &Connection::received),
      direct_op_(*this, &Connection::window_received),
      send_op_(*this, &Connection::sent),
      continue_op_(*this, &Connection::continued),
      handshake_timer_(*this),
      changed_(server.reactor_),
      drained_(server.reactor_),
      gate_(server.reactor_) {}

Connection::~Connection() {
  reactor_.disarm(handshake_timer_);
  close(fd_);
}

Task<> Connection::run() {
  std::vector<std::byte> greeting;
  negotiation_.greet(greeting);
  output_.add_bytes(greeting);
  queue_output();
  reactor_.arm(handshake_timer_, reactor_.now() + server_.options_.handshake_max);
  arm_receive();
  while (!ended()) co_await changed_.wait();
  co_await gate_.close();
  reactor_.disarm(handshake_timer_);
  if (direct_ && !direct_->pages.empty()) db_.return_pages(direct_->pages);
  if (transmitting_) volume_->session_ends();
  server_.gone(*this);
  co_return {};
}

bool Connection::ended() const {
  const bool nothing_in_ring = !receiving_ && !sending_ && !continuing_ && !queued;
  const bool quiet = gate_.count() == 0 && !window_waits_;
  return nothing_in_ring && quiet && (dead_ || (!reading_ && !output_.has_pending()));
}

void Connection::look_at_end() {
  if (shutting_down_ && gate_.count() == 0 && !direct_) stop_reading();
  if (ended()) changed_.wake_all();
}

// No more requests; the socket's pending receive ends with 0.
void Connection::stop_reading() {
  if (!reading_) return;
  reading_ = false;
  shutdown(fd_, SHUT_RD);
}

void Connection::kill() {
  if (dead_) return;
  dead_ = true;
  reading_ = false;
  shutdown(fd_, SHUT_RDWR);
  changed_.wake_all();
  drained_.wake_all();
}

void Connection::shut_down() {
  if (!transmitting_) {
    kill();
    return;
  }
  shutting_down_ = true;
  look_at_end();
}

// ---- input

void Connection::arm_receive() {
  if (receiving_ || continuing_ || !reading_ || dead_ || direct_ || paused_) return;
  make_input_room(1);
  io_uring_sqe* sqe = reactor_.prepare();
  io_uring_prep_recv(sqe, fd_, input_.data() + end_, input_.size() - end_, 0);
  reactor_.submit_op(sqe, receive_op_);
  receiving_ = true;
}

// Moves what is unparsed to the front and grows the buffer when it must hold `wanted` more.
void Connection::make_input_room(std::size_t wanted) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (input_.size() - end_ >= std::max<std::size_t>(wanted, kInputBytesMin / 4)) return;
  if (begin_ != 0) {
    std::memmove(input_.data(), input_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (input_.size() - end_ < wanted) {
    Buffer larger(std::min(kInputBytesMax, std::max(2 * input_.size(), end_ + wanted)));
    std::memcpy(larger.data(), input_.data(), end_);
    input_ = std::move(larger);
  }
}

void Connection::received(i32 result) {
  receiving_ = false;
  if (result <= 0) {
    // The peer is gone or has said all; a closed connection needs no answers.
    if (result != 0 || reading_) kill();
    changed_.wake_all();
    return;
  }
  end_ += static_cast<std::size_t>(result);
  // A client that fills the buffer at once has more to say: give it a larger one.
  if (transmitting_ && end_ == input_.size() && input_.size() < kInputBytesMax) {
    Buffer larger(2 * input_.size());
    std::memcpy(larger.data(), input_.data(), end_);
    input_ = std::move(larger);
  }
  process();
}

void Connection::process() {
  if (dead_) return;
  if (!transmitting_) negotiate();
  if (transmitting_) {
    const u32 requests = parse_requests();
    server_.stats_.requests += requests;
    reactor_.count_requests(requests);
  }
  arm_receive();
  look_at_end();
}

void Connection::negotiate() {
  std::vector<std::byte> answers;
  std::size_t used = 0;
  const Bytes input(input_.data() + begin_, end_ - begin_);
  const Negotiation::State state = negotiation_.feed(input, used, answers);
  begin_ += used;
  if (!answers.empty()) {
    output_.add_bytes(answers);
    queue_output();
  }
  switch (state) {
    case Negotiation::State::more:
      // A client that sends options and never reads the answers.
      if (output_.queued_bytes() > kQueuedBytesMax) kill();
      break;
    case Negotiation::State::close: stop_reading(); break;
    case Negotiation::State::transmission: begin_transmission(); break;
  }
}

void Connection::begin_transmission() {
  volume_ = server_.volumes_.find(negotiation_.export_name());
  reactor_.disarm(handshake_timer_);
  if (volume_ == nullptr || server_.stopping_) {
    kill();
    return;
  }
  structured_ = negotiation_.structured();
  has_context_ = negotiation_.has_context();
  transmitting_ = true;
  volume_->session_begins();
  spdlog::info("nbd: volume {} attached, sessions {}", volume_->name(), volume_->info().sessions);
}

std::optional<ExportView> Connection::find(std::string_view name) {
  std::shared_ptr<Volume> volume;
  if (!name.empty()) {
    volume = server_.volumes_.find(name);
  } else if (!server_.options_.default_export.empty()) {
    volume = server_.volumes_.find(server_.options_.default_export);
  } else {
    const auto all = server_.volumes_.list();
    if (all.size() == 1) volume = all.front();
  }
  if (volume == nullptr) return {};
  return ExportView{.name = volume->name(),
                    .description = {},
                    .size = volume->size(),
                    .read_only = volume->read_only()};
}

std::vector<ExportView> Connection::list() {
  std::vector<ExportView> views;
  for (const auto& volume : server_.volumes_.list()) {
    views.push_back({.name = volume->name(),
                     .description = {},
                     .size = volume->size(),
                     .read_only = volume->read_only()});
  }
  return views;
}

bool Connection::must_pause() const {
  return output_.queued_bytes() + reading_bytes_ > kQueuedBytesMax ||
         gate_.count() >= kRequestsMax || waiting_bytes_ > kWaitingBytesMax;
}

// Looks over the next requests without acting on them, so that their look-ups do not wait for
// memory one after the other. Yields how many.
u32 Connection::look_ahead() {
  u64 offsets[kLookAheadMax];
  u32 count = 0;
  for (std::size_t at = begin_; count < kLookAheadMax && end_ - at >= sizeof(RequestHeader);) {
    const auto header = struct_from<RequestHeader>({input_.data() + at, sizeof(RequestHeader)});
    const bool is_write = header.type == static_cast<u16>(Command::write);
    const u64 whole = sizeof(RequestHeader) + (is_write ? u64{header.length} : 0);
    // Whatever the header says, this is only a hint.
    offsets[count++] = header.offset;
    if (end_ - at < whole) break;
    at += whole;
  }
  if (count > 1) db_.expect(volume_->object(), {offsets, count});
  return std::max(count, 1u);
}

// Yields how many were taken.
u32 Connection::parse_requests() {
  paused_ = false;
  u32 count = 0;
  u32 looked_at = 0;
  while (reading_ && !dead_ && !direct_) {
    if (drain_bytes_ != 0) {
      const u64 drained = std::min<u64>(drain_bytes_, end_ - begin_);
      begin_ += drained;
      drain_bytes_ -= drained;
      if (drain_bytes_ != 0) return count;
    }
    if (end_ - begin_ < sizeof(RequestHeader)) return count;
    if (must_pause()) {
      paused_ = true;
      return count;
    }
    if (count == kRequestsPerTurn) {
      resume_later();
      return count;
    }
    if (looked_at == 0) looked_at = look_ahead();
    --looked_at;
    const auto header =
        struct_from<RequestHeader>({input_.data() + begin_, sizeof(RequestHeader)});
    ParsedRequest parsed = parse_request(header, {.size = volume_->size(),
                                                  .read_only = volume_->read_only(),
                                                  .structured = structured_,
                                                  .has_context = has_context_});
    if (parsed.close) {
      spdlog::warn("nbd: volume {}: a malformed request ends the session", volume_->name());
      stop_reading();
      return count;
    }
    if (shutting_down_) parsed.error = Errno::shutdown;
    if (parsed.request.command == Command::write && parsed.error == Errno::ok &&
        parsed.payload_bytes != 0) {
      if (!take_write(parsed)) return count;
      ++count;
      continue;
    }
    begin_ += sizeof header;
    drain_bytes_ = parsed.payload_bytes;
    ++count;
    if (parsed.error != Errno::ok) {
      reply_error(parsed.request, parsed.error);
    } else if (parsed.request.command == Command::disconnect) {
      stop_reading();  // what is in progress is answered, then the connection ends
      return count;
    } else {
      execute(parsed.request);
    }
  }
  return count;
}

// A WRITE with a payload. False: its payload is on its way, or more input is needed.
bool Connection::take_write(const ParsedRequest& parsed) {
  const Request& request = parsed.request;
  const std::size_t whole = sizeof(RequestHeader) + request.length;
  const std::size_t have = end_ - begin_;
  if (request.length >= kDirectBytesMin && (have < whole || request.length > kInputBytesMax / 2)) {
    begin_ += sizeof(RequestHeader);
    direct_ = std::make_unique<Direct>();
    direct_->request = request;
    next_window();
    return false;
  }
  if (have < whole) {
    make_input_room(whole - have);
    return false;
  }
  const Bytes data(input_.data() + begin_ + sizeof(RequestHeader), request.length);
  begin_ += whole;
  if (db_.try_write(volume_->object(), request.offset, data)) {
    after_change(request);
  } else {
    volume_->mutation_begins();
    waiting_bytes_ += data.size();
    gate_.spawn(slow_write(request, Buffer::copy_of(data)));
  }
  return true;
}

// Goes on next turn, so that other connections get theirs.
void Connection::resume_later() {
  if (continuing_) return;
  continuing_ = true;
  io_uring_sqe* sqe = reactor_.prepare();
  io_uring_prep_nop(sqe);
  reactor_.submit_op(sqe, continue_op_);
}

void Connection::continued(i32) {
  continuing_ = false;
  process();
}

// ---- large payloads

// Finds a place for the next part of the payload and receives it there.
void Connection::next_window() {
  Direct& direct = *direct_;
  const u32 left = direct.request.length - direct.done;
  direct.received = 0;
  direct.bytes = std::min(left, kWindowBytes);
  const bool in_pages = direct.offset() % kPageBytes == 0 && left >= kPageBytes;
  if (!in_pages || direct.error != Errno::ok) {
    if (direct.body.size() < direct.bytes) direct.body = Buffer(direct.bytes);
    receive_window();
    return;
  }
  direct.bytes -= direct.bytes % kPageBytes;
  if (db_.try_take_pages(direct.bytes / kPageBytes, direct.pages)) {
    receive_window();
  } else {
    window_waits_ = true;
    gate_.spawn(wait_for_pages());
  }
}

Task<> Connection::wait_for_pages() {
  const Result<> taken =
      co_await as_result(db_.take_pages(direct_->bytes / kPageBytes, direct_->pages));
  window_waits_ = false;
  if (!taken) {
    kill();  // the database is closing or fenced
  } else if (!dead_) {
    receive_window();
  }
  changed_.wake_all();
  co_return {};
}

MutableBytes Connection::window_at(u32 at) {
  Direct& direct = *direct_;
  if (direct.pages.empty()) return direct.body.mutable_bytes().subspan(at, direct.bytes - at);
  std::byte* page = db_.page_data(direct.pages[at / kPageBytes]);
  return MutableBytes(page, kPageBytes).subspan(at % kPageBytes);
}

// Takes what is buffered already, then receives the rest in place.
void Connection::receive_window() {
  Direct& direct = *direct_;
  while (direct.received < direct.bytes && begin_ < end_) {
    const MutableBytes to = window_at(direct.received);
    const u32 count = static_cast<u32>(std::min<std::size_t>(to.size(), end_ - begin_));
    std::memcpy(to.data(), input_.data() + begin_, count);
    begin_ += count;
    direct.received += count;
  }
  if (direct.received == direct.bytes) {
    apply_window();
    return;
  }
  direct.vectors.clear();
  for (u32 at = direct.received; at < direct.bytes;) {
    const MutableBytes to = window_at(at);
    at += static_cast<u32>(to.size());
    iovec* last = direct.vectors.empty() ? nullptr : &direct.vectors.back();
    if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == to.data()) {
      last->iov_len += to.size();
    } else {
      direct.vectors.push_back({to.data(), to.size()});
    }
  }
  direct.message.msg_iov = direct.vectors.data();
  direct.message.msg_iovlen = direct.vectors.size();
  io_uring_sqe* sqe = reactor_.prepare();
  io_uring_prep_recvmsg(sqe, fd_, &direct.message, MSG_WAITALL);
  reactor_.submit_op(sqe, direct_op_);
  receiving_ = true;
}

void Connection::window_received(i32 result) {
  receiving_ = false;
  if (result <= 0 || dead_) {
    kill();
    return;
  }
  direct_->received += static_cast<u32>(result);
  receive_window();
}

void Connection::apply_window() {
  Direct& direct = *direct_;
  // The volume may have shrunk since the request was let in.
  if (direct.error == Errno::ok && direct.offset() + direct.bytes > volume_->size()) {
    direct.error = Errno::nospc;
  }
  if (direct.error != Errno::ok) {
    db_.return_pages(direct.pages);
  } else if (!direct.pages.empty()) {
    db_.write_pages(volume_->object(), direct.offset() / kPageBytes, direct.pages);
  } else if (!db_.try_write(volume_->object(), direct.offset(),
                            direct.body.bytes().first(direct.bytes))) {
    window_waits_ = true;
    gate_.spawn(apply_window_slowly());
    return;
  }
  direct.pages.clear();
  window_applied();
}

Task<> Connection::apply_window_slowly() {
  volume_->mutation_begins();
  const Result<> written = co_await as_result(
      db_.write(volume_->object(), direct_->offset(), direct_->body.bytes().first(direct_->bytes)));
  volume_->mutation_ends();
  window_waits_ = false;
  if (!written) direct_->error = errno_of(written.error());
  if (!dead_) window_applied();
  changed_.wake_all();
  co_return {};
}

void Connection::window_applied() {
  Direct& direct = *direct_;
  direct.done += direct.bytes;
  if (direct.done != direct.request.length) {
    next_window();
    return;
  }
  const Request request = direct.request;
  const Errno error = direct.error;
  direct_.reset();
  ++server_.stats_.requests;
  if (error == Errno::ok) {
    after_change(request);
  } else {
    reply_error(request, error);
  }
  process();
}

// ---- output

void Connection::queue_output() { reactor_.at_end_of_turn(*this); }

void Connection::end_of_turn() {
  if (shutting_down_ && gate_.count() == 0 && !direct_) stop_reading();
  if (!sending_ && !dead_ && output_.has_pending()) {
    send_now();
  }
  look_at_end();
}

// Nearly always the socket has room for everything, so the first try is a plain call: its pins are
// free at once and the ring has one completion less to bring. The ring takes what is left.
void Connection::send_now() {
  const std::span<iovec> all = output_.begin_send();
  message_.msg_iov = all.data();
  message_.msg_iovlen = all.size();
  const ssize_t result = sendmsg(fd_, &message_, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (result < 0 && errno == EAGAIN) {
    send_more();
  } else {
    sent(result < 0 ? -errno : static_cast<i32>(result));
  }
}

void Connection::send_more() {
  const std::span<iovec> rest = output_.rest(IOV_MAX);
  message_.msg_iov = rest.data();
  message_.msg_iovlen = rest.size();
  io_uring_sqe* sqe = reactor_.prepare();
  io_uring_prep_sendmsg(sqe, fd_, &message_, MSG_NOSIGNAL | MSG_WAITALL);
  reactor_.submit_op(sqe, send_op_);
  sending_ = true;
}

void Connection::sent(i32 result) {
  sending_ = false;
  if (result <= 0) {
    kill();
    return;
  }
  const bool all = output_.sent(static_cast<u64>(result));
  if (drained_.has_waiters()) drained_.wake_all();
  if (!all) {
    if (!dead_) send_more();
  } else if (output_.has_pending()) {
    queue_output();
  }
  if (paused_ && !must_pause()) process();
  look_at_end();
}

}  // namespace zerofs::nbd
