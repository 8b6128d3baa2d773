#include "tests/fault_proxy/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fault_proxy {

const char* const kFaultNames[kFaultCount] = {"none",  "reset", "truncate",
                                              "stall", "drop",  "answer"};

namespace {

enum Direction { kUp = 0, kDown = 1 };

constexpr std::size_t kBlockBytes = 128 * 1024;
constexpr std::size_t kSmallBytes = 16 * 1024;   // copied out of the block, which is used again
constexpr std::size_t kPipeBytesMax = 32 << 20;  // in the delay line of one pipe
constexpr std::size_t kLinkQuantum = 32 * 1024;  // that one pipe gets of a capped link in its turn
constexpr std::size_t kTraceMax = 4096;
// The link may be given this much ahead of time: less means more wake-ups.
constexpr Duration kLinkAhead = std::chrono::microseconds(500);
constexpr Duration kForever = std::chrono::hours(1);

void check(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::exit(1);
}

void set_up(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

}  // namespace

struct Proxy::Chunk {
  enum class Then : std::uint8_t { go_on, finish, reset, stall };

  Block block;        // large ones
  std::string small;  // the others
  std::size_t size = 0;
  std::size_t sent = 0;
  Instant due;
  Then then = Then::go_on;

  const char* data() const { return block ? block.get() : small.data(); }
};

struct Proxy::Pipe {
  Connection* connection = nullptr;
  Direction direction = kUp;
  int from = -1;
  int to = -1;
  bool readable = false;
  bool writable = false;
  bool waiting = false;   // in waiting_
  bool blocked = false;   // the receiver's buffer is full
  bool finished = false;  // takes nothing more
  bool stalled = false;   // gives nothing more
  bool ended = false;     // its end was delivered
  bool scheduled = false;
  std::size_t queued = 0;
  std::deque<Chunk> line;
  HttpScan scan;
};

struct Proxy::Connection {
  int client = -1;
  int server = -1;
  Pipe up;
  Pipe down;
  bool dead = false;
  Instant born;
  // Of the request in flight.
  Fault fault = Fault::none;
  bool fault_in_request = false;
  std::uint64_t fault_after = 0;  // bytes of the body
  bool swallowing = false;
};

Proxy::Proxy(std::uint16_t port, std::vector<sockaddr_in> upstreams)
    : upstreams_(std::move(upstreams)) {
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int one = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  check(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "bind");
  check(listen(listener_, 1024) == 0, "listen");
  socklen_t length = sizeof address;
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
  port_ = ntohs(address.sin_port);
  epoll_event event{.events = EPOLLIN, .data = {.ptr = this}};
  epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event);
  event.data.ptr = nullptr;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, STDIN_FILENO, &event);
}

Proxy::~Proxy() {
  reset_all();
  bury();
  close(listener_);
  close(epoll_);
}

// ---- connections

void Proxy::accept_all() {
  for (;;) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return;
    ++counters_.connections;
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    set_up(client);
    set_up(server);
    Connection& made = connections_.emplace_back();
    made.client = client;
    made.server = server;
    made.born = Clock::now();
    made.up.connection = made.down.connection = &made;
    made.down.direction = kDown;
    made.up.from = made.down.to = client;
    made.up.to = made.down.from = server;
    if (settings_.outage == Outage::reset) {
      kill(made, true);
      continue;
    }
    const sockaddr_in& upstream = upstreams_[next_upstream_++ % upstreams_.size()];
    const int connected =
        connect(server, reinterpret_cast<const sockaddr*>(&upstream), sizeof upstream);
    if (connected != 0 && errno != EINPROGRESS) {
      kill(made, true);
      continue;
    }
    // The pipes' addresses tell which socket an event is for.
    epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                      .data = {.ptr = &made.up}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, client, &event);
    event.data.ptr = &made.down;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, server, &event);
  }
}

void Proxy::kill(Connection& connection, bool reset) {
  if (connection.dead) return;
  connection.dead = true;
  for (const int fd : {connection.client, connection.server}) {
    if (reset) {
      const linger now{.l_onoff = 1, .l_linger = 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(fd);
  }
  for (Pipe* pipe : {&connection.up, &connection.down}) {
    if (pipe->scheduled) due_.erase({pipe->line.front().due, pipe});
    if (pipe->waiting) std::erase(waiting_[pipe->direction], pipe);
    for (Chunk& chunk : pipe->line) give_block(std::move(chunk.block));
    pipe->line.clear();
  }
  dead_.push_back(&connection);
}

void Proxy::reset_all() {
  for (Connection& connection : connections_) kill(connection, true);
}

void Proxy::resume_all() {
  const Instant now = Clock::now();
  for (Connection& connection : connections_) {
    for (Pipe* pipe : {&connection.up, &connection.down}) {
      if (!connection.dead && !pipe->scheduled) deliver(*pipe, now);
    }
  }
}

// Events of this turn may still name a connection that died in it.
void Proxy::bury() {
  if (dead_.empty()) return;
  connections_.remove_if([](const Connection& connection) { return connection.dead; });
  dead_.clear();
}

void Proxy::on_event(Connection& connection, bool client_side, std::uint32_t events) {
  if (connection.dead) return;
  Pipe& reads = client_side ? connection.up : connection.down;
  Pipe& writes = client_side ? connection.down : connection.up;
  if (events & EPOLLERR) {
    kill(connection, true);
    return;
  }
  if (events & EPOLLOUT) {
    writes.writable = true;
    writes.blocked = false;
    deliver(writes, Clock::now());
  }
  if (connection.dead) return;
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) {
    reads.readable = true;
    want_link(reads);
  }
}

// ---- the link

void Proxy::want_link(Pipe& pipe) {
  if (pipe.waiting || pipe.finished || !pipe.readable || pipe.queued >= kPipeBytesMax) return;
  pipe.waiting = true;
  waiting_[pipe.direction].push_back(&pipe);
}

void Proxy::run_link(int direction, Instant now) {
  if (settings_.outage == Outage::silent) return;
  std::deque<Pipe*>& waiting = waiting_[direction];
  // Not for ever: a fast sender must not keep us from the other direction and from commands.
  for (std::size_t turns = waiting.size() + 64; turns != 0 && !waiting.empty(); --turns) {
    if (settings_.bytes_per_second > 0 && link_free_[direction] > now + kLinkAhead) return;
    Pipe& pipe = *waiting.front();
    waiting.pop_front();
    pipe.waiting = false;
    take_from(pipe, now);
  }
}

// One turn of a pipe on the link.
void Proxy::take_from(Pipe& pipe, Instant now) {
  Block block = take_block();
  const std::size_t wanted = settings_.bytes_per_second > 0 ? kLinkQuantum : kBlockBytes;
  const ssize_t count = recv(pipe.from, block.get(), wanted, 0);
  if (count < 0 && errno == EAGAIN) {
    pipe.readable = false;
    give_block(std::move(block));
    return;
  }
  if (count < 0) {
    give_block(std::move(block));
    kill(*pipe.connection, true);
    return;
  }
  Chunk chunk;
  if (count == 0) {
    give_block(std::move(block));
    pipe.finished = true;
    chunk.then = Chunk::Then::finish;
    send(pipe, std::move(chunk), now);
    return;
  }
  counters_.bytes[pipe.direction] += static_cast<std::uint64_t>(count);
  const std::string_view bytes(block.get(), static_cast<std::size_t>(count));
  if (pipe.direction == kUp) {
    scratch_.clear();
    const bool plain =
        !pipe.scan.is_http() || (!pipe.scan.in_head() && !pipe.connection->swallowing);
    scan_request(pipe, bytes, scratch_, now);
    // The usual bulk: a body that passes as it is.
    if (plain && scratch_.size() == bytes.size()) {
      chunk.block = std::move(block);
    } else {
      chunk.small = scratch_;
      give_block(std::move(block));
    }
    chunk.size = chunk.block ? bytes.size() : chunk.small.size();
    if (pipe.connection->fault == Fault::reset && pipe.connection->fault_in_request &&
        pipe.finished) {
      chunk.then = Chunk::Then::reset;
    }
  } else {
    chunk.size = bytes.size();
    if (chunk.size <= kSmallBytes) {
      chunk.small = bytes;
      give_block(std::move(block));
    } else {
      chunk.block = std::move(block);
    }
    scan_response(pipe, chunk);
  }
  if (chunk.size != 0 || chunk.then != Chunk::Then::go_on) send(pipe, std::move(chunk), now);
  if (!pipe.connection->dead) want_link(pipe);
}

void Proxy::send(Pipe& pipe, Chunk chunk, Instant now) {
  Instant passed = now;
  if (settings_.bytes_per_second > 0) {
    Instant& free = link_free_[pipe.direction];
    const double seconds = static_cast<double>(chunk.size) / settings_.bytes_per_second;
    free = std::max(free, now) + Duration(static_cast<std::int64_t>(seconds * 1e9));
    passed = free;
  }
  Duration delay = settings_.delay;
  if (settings_.jitter.count() > 0) {
    delay += Duration(static_cast<std::int64_t>(
        random_() % static_cast<std::uint64_t>(settings_.jitter.count())));
  }
  chunk.due = passed + delay;
  // The handshake of a new connection takes a round trip of its own.
  chunk.due = std::max(chunk.due, pipe.connection->born + 3 * settings_.delay);
  if (!pipe.line.empty()) chunk.due = std::max(chunk.due, pipe.line.back().due);
  pipe.queued += chunk.size;
  pipe.line.push_back(std::move(chunk));
  if (pipe.line.size() > 1) return;
  if (pipe.line.front().due <= now) {
    deliver(pipe, now);
  } else {
    schedule(pipe);
  }
}

// ---- delivery

void Proxy::schedule(Pipe& pipe) {
  due_.insert({pipe.line.front().due, &pipe});
  pipe.scheduled = true;
}

void Proxy::deliver_due(Instant now) {
  while (!due_.empty() && due_.begin()->first <= now) {
    Pipe& pipe = *due_.begin()->second;
    due_.erase(due_.begin());
    pipe.scheduled = false;
    deliver(pipe, now);
  }
}

void Proxy::deliver(Pipe& pipe, Instant now) {
  while (!pipe.line.empty() && !pipe.scheduled && !pipe.blocked && !pipe.stalled) {
    if (settings_.outage == Outage::silent) return;
    Chunk& chunk = pipe.line.front();
    if (chunk.due > now) {
      schedule(pipe);
      break;
    }
    while (chunk.sent < chunk.size) {
      if (!pipe.writable) return;  // not connected yet
      const ssize_t count =
          ::send(pipe.to, chunk.data() + chunk.sent, chunk.size - chunk.sent, MSG_NOSIGNAL);
      if (count < 0 && errno == EAGAIN) {
        pipe.blocked = true;
        return;
      }
      if (count < 0) {
        kill(*pipe.connection, true);
        return;
      }
      chunk.sent += static_cast<std::size_t>(count);
    }
    const Chunk::Then then = chunk.then;
    pipe.queued -= chunk.size;
    give_block(std::move(chunk.block));
    pipe.line.pop_front();
    if (then == Chunk::Then::reset) {
      kill(*pipe.connection, true);
      return;
    }
    if (then == Chunk::Then::stall) {
      pipe.stalled = true;
      return;
    }
    if (then == Chunk::Then::finish) {
      pipe.ended = true;
      Connection& connection = *pipe.connection;
      const bool nothing_comes = connection.down.ended || connection.down.stalled;
      if (connection.up.ended && nothing_comes) {
        kill(connection, false);
      } else {
        shutdown(pipe.to, SHUT_WR);
      }
      return;
    }
  }
  if (!pipe.connection->dead) want_link(pipe);
}

// ---- faults

void Proxy::begin_request(Connection& connection) {
  const std::string& head = connection.up.scan.head();
  const std::string method(method_of(head));
  ++counters_.requests[method];
  trace_.emplace_back(head.substr(0, head.find("\r\n")));
  if (trace_.size() > kTraceMax) trace_.pop_front();
  connection.down.scan.restart();
  connection.fault = Fault::none;
  connection.swallowing = false;
  if (!settings_.method.empty() && settings_.method != method) return;
  double roll = static_cast<double>(random_() >> 11) * 0x1p-53;
  for (std::size_t i = 1; i < kFaultCount; ++i) {
    if (roll < settings_.probability[i]) {
      connection.fault = static_cast<Fault>(i);
      break;
    }
    roll -= settings_.probability[i];
  }
  if (connection.fault == Fault::none) return;
  ++counters_.faults[static_cast<std::size_t>(connection.fault)];
  const std::uint64_t body = connection.up.scan.body_bytes();
  connection.fault_in_request = connection.fault == Fault::reset && body > 0 && random_() % 2 == 0;
  connection.fault_after = connection.fault_in_request ? random_() % body : 0;
  connection.swallowing = connection.fault == Fault::answer;
}

// Holds a head back until it is whole. What goes on to the server is appended to `out`.
void Proxy::scan_request(Pipe& pipe, std::string_view bytes, std::string& out, Instant now) {
  Connection& connection = *pipe.connection;
  while (!bytes.empty() && !pipe.finished) {
    const bool was_head = pipe.scan.in_head();
    const std::size_t held = was_head ? pipe.scan.head().size() : 0;
    const HttpScan::Step step = pipe.scan.feed(bytes);
    const std::string_view part = bytes.substr(0, step.taken);
    bytes.remove_prefix(step.taken);
    if (step.event == HttpScan::Event::head) {
      begin_request(connection);
      if (!connection.swallowing) out += pipe.scan.head();
      if (connection.swallowing && pipe.scan.body_bytes() == 0) answer(connection, now);
      continue;
    }
    if (!pipe.scan.is_http()) {
      if (held != 0) out.append(pipe.scan.head().substr(0, held));
      out.append(part);
      continue;
    }
    if (pipe.scan.in_head() && step.event == HttpScan::Event::none) continue;
    if (connection.swallowing) {
      if (step.event == HttpScan::Event::end) answer(connection, now);
      continue;
    }
    if (connection.fault == Fault::reset && connection.fault_in_request) {
      const std::uint64_t count = std::min<std::uint64_t>(part.size(), connection.fault_after);
      connection.fault_after -= count;
      out.append(part.substr(0, count));
      pipe.finished = count < part.size();
      continue;
    }
    out.append(part);
  }
}

void Proxy::answer(Connection& connection, Instant now) {
  connection.swallowing = false;
  connection.fault = Fault::none;
  Chunk chunk;
  chunk.small = settings_.answer;
  chunk.size = chunk.small.size();
  ++counters_.responses[status_of(chunk.small)];
  send(connection.down, std::move(chunk), now);
}

// Counts the status, and cuts the chunk where the request's fault wants it.
void Proxy::scan_response(Pipe& pipe, Chunk& chunk) {
  Connection& connection = *pipe.connection;
  std::string_view bytes(chunk.data(), chunk.size);
  if (connection.fault == Fault::drop) {
    chunk.size = 0;
    chunk.then = Chunk::Then::reset;
    pipe.finished = true;
    return;
  }
  std::size_t at = 0;
  while (at < bytes.size()) {
    const bool was_head = pipe.scan.in_head();
    const HttpScan::Step step = pipe.scan.feed(bytes.substr(at));
    if (step.event == HttpScan::Event::head) {
      const int status = status_of(pipe.scan.head());
      ++counters_.responses[status];
      if (status == 100) pipe.scan.restart();
      const std::uint64_t body = pipe.scan.body_bytes();
      if (status != 100 && body != 0) connection.fault_after = random_() % body;
    } else if (!connection.fault_in_request && connection.fault != Fault::none && !was_head) {
      if (step.taken > connection.fault_after) {
        chunk.size = at + connection.fault_after;
        chunk.then = connection.fault == Fault::reset      ? Chunk::Then::reset
                     : connection.fault == Fault::truncate ? Chunk::Then::finish
                                                           : Chunk::Then::stall;
        pipe.finished = true;
        return;
      }
      connection.fault_after -= step.taken;
    }
    at += step.taken;
  }
  // Without a body the head itself is the middle.
  const bool bare = pipe.scan.body_bytes() == 0 && connection.fault != Fault::none &&
                    !connection.fault_in_request;
  if (bare && chunk.size > 1) {
    chunk.size /= 2;
    chunk.then = connection.fault == Fault::stall   ? Chunk::Then::stall
                 : connection.fault == Fault::reset ? Chunk::Then::reset
                                                    : Chunk::Then::finish;
    pipe.finished = true;
  }
}

// ---- the loop

Proxy::Block Proxy::take_block() {
  if (blocks_.empty()) return std::make_unique_for_overwrite<char[]>(kBlockBytes);
  Block block = std::move(blocks_.back());
  blocks_.pop_back();
  return block;
}

void Proxy::give_block(Block block) {
  if (block) blocks_.push_back(std::move(block));
}

Duration Proxy::until_next(Instant now) const {
  if (settings_.outage == Outage::silent) return kForever;
  Instant next = now + kForever;
  if (!due_.empty()) next = std::min(next, due_.begin()->first);
  for (const int direction : {kUp, kDown}) {
    if (!waiting_[direction].empty()) next = std::min(next, link_free_[direction] - kLinkAhead);
  }
  return std::max(Duration(0), next - now);
}

void Proxy::run() {
  epoll_event events[256];
  while (!ended_) {
    const Duration wait = until_next(Clock::now());
    const timespec timeout{.tv_sec = wait.count() / 1'000'000'000,
                           .tv_nsec = wait.count() % 1'000'000'000};
    const int count = epoll_pwait2(epoll_, events, 256, &timeout, nullptr);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.ptr == this) {
        accept_all();
      } else if (events[i].data.ptr == nullptr) {
        read_commands();
      } else {
        Pipe& pipe = *static_cast<Pipe*>(events[i].data.ptr);
        on_event(*pipe.connection, pipe.direction == kUp, events[i].events);
      }
    }
    const Instant now = Clock::now();
    if (settings_.outage != Outage::silent) deliver_due(now);
    run_link(kUp, now);
    run_link(kDown, now);
    bury();
  }
}

}  // namespace fault_proxy
