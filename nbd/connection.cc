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
  if (direct_) db_.return_pages(direct_->pages);
  direct_.reset();
  output_.clear();
  account();
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

// Called again for each operation that a dead connection still had in the ring: any may be the
// last that its end waited for.
void Connection::kill() {
  if (!dead_) {
    dead_ = true;
    reading_ = false;
    shutdown(fd_, SHUT_RDWR);
    drained_.wake_all();
  }
  changed_.wake_all();
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
    account();
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
      if (output_.queued_bytes() > kHeldBytesMax) kill();
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

// Bytes that this connection keeps in memory or pins in the cache.
u64 Connection::held() const {
  return output_.queued_bytes() + reading_bytes_ + waiting_bytes_ + (direct_ ? direct_->bytes : 0);
}

void Connection::account() {
  const u64 own = held();
  const bool frees = own < charged_bytes_;
  server_.budget_.account(charged_bytes_, own);
  if (frees) server_.budget_freed();
}

// Whether a request that will hold `more` bytes has to wait.
bool Connection::must_pause(u64 more) {
  account();
  if ((charged_bytes_ != 0 && charged_bytes_ + more > kHeldBytesMax) ||
      gate_.count() >= kRequestsMax || output_.queued_vectors() > kQueuedVectorsMax) {
    return true;
  }
  if (server_.budget_.admits(charged_bytes_, more)) return false;
  server_.wait_for_budget();
  return true;
}

void Connection::budget_freed() {
  if (paused_) resume_later();
  drained_.wake_all();
}

std::optional<Instant> Connection::stalled_since() const {
  if (charged_bytes_ == 0 || !(sending_ || (direct_ && receiving_))) return {};
  return progress_;
}

// By a read until it is answered, or by each of its parts.
u64 Connection::bytes_held_by(const Request& request) const {
  if (request.command != Command::read) return 0;
  return is_answered_in_parts(request) ? part_bytes() : request.length;
}

// Small when the budget is tight, so that every client gets on, however slowly.
u32 Connection::part_bytes() const {
  return server_.budget_.is_tight() ? Budget::kAlwaysBytes : kPartBytes;
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
    if (count == kRequestsPerTurn) {
      resume_later();
      return count;
    }
    if (looked_at == 0) looked_at = look_ahead();
    --looked_at;
    const auto header = struct_from<RequestHeader>({input_.data() + begin_, sizeof(RequestHeader)});
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
    const u64 more = parsed.error == Errno::ok ? bytes_held_by(parsed.request) : 0;
    if (must_pause(more)) {
      paused_ = true;
      return count;
    }
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

// ---- output

void Connection::queue_output() {
  reactor_.at_end_of_turn(*this);
}

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
  // Not more at a time, so that progress shows.
  constexpr u32 kSendVectorsMax = 256;
  const std::span<iovec> rest = output_.rest(kSendVectorsMax);
  progress_ = reactor_.now();
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
  account();
  if (drained_.has_waiters()) drained_.wake_all();
  if (!all) {
    if (!dead_) send_more();
  } else if (output_.has_pending()) {
    queue_output();
  }
  if (paused_) process();
  look_at_end();
}

}  // namespace zerofs::nbd
