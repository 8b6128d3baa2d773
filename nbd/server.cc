#include "nbd/server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "nbd/connection.h"

namespace zerofs::nbd {

namespace {
constexpr int kBacklog = 128;
constexpr Duration kShutdownMax = 10s;  // for clients that do not take their answers
constexpr u64 kBudgetBytesMin = 8 * kMiB;
constexpr u64 kBudgetShare = 8;           // of --memory
constexpr Duration kAcceptPause = 100ms;  // when descriptors have run out
}  // namespace

// ---- addresses

Result<ListenAddress> parse_listen_address(std::string_view text) {
  ListenAddress address;
  if (text.starts_with("unix:")) {
    address.unix_path = text.substr(5);
    if (address.unix_path.empty() || address.unix_path.size() >= sizeof(sockaddr_un::sun_path)) {
      return invalid("a unix socket's path must have 1 to 107 bytes");
    }
    return address;
  }
  std::string_view host = text;
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) return invalid("an IPv6 address ends with ']'");
    host = text.substr(1, close - 1);
    port = text.substr(close + 1);
    if (!port.empty() && port[0] != ':') return invalid("after ']' comes ':PORT' or nothing");
    if (!port.empty()) port.remove_prefix(1);
  } else if (const std::size_t colon = text.rfind(':'); colon != std::string_view::npos) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    if (port.empty() || host.find(':') != std::string_view::npos) {
      return invalid("an address is HOST:PORT, [IPV6]:PORT or unix:PATH");
    }
  }
  address.host = host.empty() ? "127.0.0.1" : std::string(host);
  if (!port.empty()) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
    if (error != std::errc() || end != port.data() + port.size()) {
      return invalid("a port is a number from 0 to 65535");
    }
  }
  return address;
}

// ---- listeners

class Server::Listener final : private IoOp, private Timer {
 public:
  Listener(Server& server, int fd, std::string unix_path)
      : server_(server), fd_(fd), unix_path_(std::move(unix_path)) {
    arm();
  }
  ~Listener() override {
    server_.reactor_.disarm(*this);
    close(fd_);
  }
  void stop() {
    if (stopping_) return;
    stopping_ = true;
    server_.reactor_.disarm(*this);
    if (armed_) server_.reactor_.cancel(*this);
    if (!unix_path_.empty()) unlink(unix_path_.c_str());
  }
  bool stopped() const { return stopping_ && !armed_; }

 private:
  void arm() {
    io_uring_sqe* sqe = server_.reactor_.prepare();
    io_uring_prep_accept(sqe, fd_, nullptr, nullptr, SOCK_CLOEXEC);
    server_.reactor_.submit_op(sqe, *this);
    armed_ = true;
  }
  void complete(i32 result, u32) override {
    armed_ = false;
    if (stopping_) {
      if (result >= 0) close(result);
      server_.changed_.wake_all();
      return;
    }
    if (result >= 0) {
      server_.accepted(result, unix_path_.empty());
      arm();
    } else {
      // Out of descriptors or memory: clients in the backlog wait, the loop must not spin.
      spdlog::warn("nbd: accept: {}", std::strerror(-result));
      server_.reactor_.arm(*this, server_.reactor_.now() + kAcceptPause);
    }
  }
  void fire() override { arm(); }

  Server& server_;
  int fd_;
  std::string unix_path_;
  bool armed_ = false;
  bool stopping_ = false;
};

// ---- server

Server::Server(Reactor& reactor, Runtime runtime, Db& db, VolumeSet& volumes, ServerOptions options)
    : reactor_(reactor),
      runtime_(runtime),
      db_(db),
      volumes_(volumes),
      options_(std::move(options)),
      budget_(std::max(kBudgetBytesMin, db.status().memory_bytes / kBudgetShare)),
      stall_timer_(*this),
      changed_(reactor),
      gate_(reactor) {}

Server::~Server() {
  reactor_.disarm(stall_timer_);
}

namespace {

std::unexpected<Error> listen_error(int error) {
  switch (error) {
    case EADDRINUSE: return fail(Code::busy, "the address is in use", static_cast<u64>(error));
    case EACCES:
    case EPERM: return fail(Code::denied, "no permission to listen there", static_cast<u64>(error));
    default: return fail(Code::invalid, "cannot listen there, errno", static_cast<u64>(error));
  }
}

Result<int> listen_unix(const std::string& path, u32 mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  // A socket file that nobody listens on is left over from a server that was killed.
  struct stat info{};
  if (lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return listen_error(errno);
    const bool stale = connect(probe, generic, sizeof address) != 0 && errno == ECONNREFUSED;
    close(probe);
    if (stale) unlink(path.c_str());
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return listen_error(errno);
  // Before listen() nobody can connect, so the mode is in force from the first client on.
  if (bind(fd, generic, sizeof address) != 0 || chmod(path.c_str(), mode) != 0 ||
      listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    return listen_error(error);
  }
  return fd;
}

Result<int> listen_tcp(const std::string& host, u16& port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string service = std::to_string(port);
  if (getaddrinfo(host.c_str(), service.c_str(), &hints, &found) != 0) {
    return invalid("the host of the listen address is unknown");
  }
  int error = EADDRNOTAVAIL;
  int fd = -1;
  for (const addrinfo* at = found; at != nullptr && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, at->ai_addr, at->ai_addrlen) != 0 || ::listen(fd, kBacklog) != 0) {
      error = errno;
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  if (fd < 0) return listen_error(error);
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) == 0) {
    port =
        ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  }
  return fd;
}

}  // namespace

Result<ListenAddress> Server::listen(const ListenAddress& address) {
  ListenAddress chosen = address;
  const Result<int> fd = address.unix_path.empty()
                             ? listen_tcp(address.host, chosen.port)
                             : listen_unix(address.unix_path, options_.unix_mode);
  if (!fd) return std::unexpected(fd.error());
  listeners_.push_back(std::make_unique<Listener>(*this, *fd, address.unix_path));
  return chosen;
}

void Server::accepted(int fd, bool is_tcp) {
  if (stopping_ || connections_.size() >= options_.connections_max) {
    spdlog::warn("nbd: a connection is refused: {}",
                 stopping_ ? "shutting down" : "too many connections");
    close(fd);
    return;
  }
  if (is_tcp) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  }
  ++stats_.accepted;
  connections_.push_back(std::make_unique<Connection>(*this, fd));
  gate_.spawn(connections_.back()->run());
}

// Called by a connection as the last thing of its run(): it is destroyed in a later step, when its
// coroutine's frame is gone.
void Server::gone(Connection& connection) {
  struct Destroy final : Timer {
    void fire() override {
      std::erase_if(server->connections_,
                    [this](const auto& held) { return held.get() == connection; });
      server->changed_.wake_all();
      delete this;
    }
    Server* server = nullptr;
    Connection* connection = nullptr;
  };
  auto* destroy = new Destroy;
  destroy->server = this;
  destroy->connection = &connection;
  reactor_.arm(*destroy, reactor_.now());
}

// ---- budget

void Server::wait_for_budget() {
  if (!budget_wanted_) reactor_.arm(stall_timer_, reactor_.now() + options_.stall_max);
  budget_wanted_ = true;
}

void Server::budget_freed() {
  if (!budget_wanted_) return;
  budget_wanted_ = false;
  reactor_.disarm(stall_timer_);
  // Those for whom it is not enough ask again.
  for (const auto& connection : connections_) connection->budget_freed();
}

// Others wait: whoever has not moved for long has to go.
void Server::end_stalled() {
  const Instant deadline = reactor_.now() - options_.stall_max;
  for (const auto& connection : connections_) {
    const std::optional<Instant> since = connection->stalled_since();
    if (!since || *since > deadline) continue;
    spdlog::warn("nbd: a client that does not move is disconnected: others need the memory");
    connection->kill();
  }
  reactor_.arm(stall_timer_, reactor_.now() + options_.stall_max / 4);
}

Task<> Server::shutdown() {
  stopping_ = true;
  for (const auto& listener : listeners_) listener->stop();
  for (const auto& connection : connections_) connection->shut_down();
  WakeTimer patience(reactor_, changed_);
  const Instant deadline = reactor_.now() + kShutdownMax;
  patience.arm(deadline);
  const auto listening = [&] {
    return std::ranges::any_of(listeners_, [](const auto& l) { return !l->stopped(); });
  };
  while (!connections_.empty() || listening()) {
    if (reactor_.now() >= deadline) close_all_sessions();
    co_await changed_.wait();
  }
  co_await gate_.close();
  listeners_.clear();
  co_return {};
}

Task<> Server::close_sessions_of(Volume& volume) {
  const auto attached = [&] {
    return std::ranges::any_of(connections_, [&](const auto& c) { return c->volume() == &volume; });
  };
  for (const auto& connection : connections_) {
    if (connection->volume() == &volume) connection->kill();
  }
  while (attached()) co_await changed_.wait();
  co_return {};
}

void Server::close_all_sessions() {
  for (const auto& connection : connections_) connection->kill();
}

ServerStats Server::stats() const {
  ServerStats stats = stats_;
  stats.connections = connections_.size();
  return stats;
}

}  // namespace zerofs::nbd
