#include "tools/control.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/io.h"

namespace zerofs::tools {

namespace {

constexpr int kAnswerSecondsMax = 600;  // a flush may wait for an outage to end

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), std::min(path.size(), sizeof address.sun_path - 1));
  return address;
}

int connect_to(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const sockaddr_un address = address_of(path);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string default_control_path(const std::string& canonical_store) {
  std::string directory;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') {
    directory = fmt::format("{}/zerofs", runtime);
  } else if (getuid() == 0) {
    directory = "/run/zerofs";
  } else {
    directory = fmt::format("/tmp/zerofs-{}", getuid());
  }
  const u64 hash = XXH3_64bits(canonical_store.data(), canonical_store.size());
  return fmt::format("{}/{:016x}.sock", directory, hash);
}

Json error_json(const Error& error) {
  return {{"ok", false},
          {"code", static_cast<int>(error.code())},
          {"error", error.text()},
          {"id", error.id()}};
}
Json ok_json() {
  return {{"ok", true}};
}

// ---- server

ControlServer::ControlServer(Reactor& reactor, Handler& handler)
    : reactor_(reactor), handler_(handler), gate_(reactor) {}

ControlServer::~ControlServer() {
  if (fd_ >= 0) ::close(fd_);
}

Result<> ControlServer::listen(const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return invalid("the control socket's path is too long; give a shorter one with --control");
  }
  const std::string directory = path.substr(0, path.rfind('/'));
  if (!directory.empty() && mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail(Code::denied, "cannot make the control socket's directory, errno",
                static_cast<u64>(errno));
  }
  // Others must not be able to put a socket of theirs there.
  struct stat info{};
  if (directory.starts_with("/tmp/") && stat(directory.c_str(), &info) == 0 &&
      info.st_uid != getuid()) {
    return fail(Code::denied, "the control socket's directory belongs to somebody else");
  }
  const int probe = connect_to(path);
  if (probe >= 0) {
    ::close(probe);
    return fail(Code::busy, "a server for this store is running on this machine");
  }
  if (errno == ECONNREFUSED) unlink(path.c_str());
  fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = address_of(path);
  if (fd_ < 0 || bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      chmod(path.c_str(), 0600) != 0 || ::listen(fd_, 16) != 0) {
    return fail(Code::denied, "cannot listen on the control socket, errno",
                static_cast<u64>(errno));
  }
  path_ = path;
  gate_.spawn(accept_loop());
  return {};
}

Task<> ControlServer::accept_loop() {
  while (!stopping_) {
    const i32 fd = co_await ring_op(reactor_, [this](io_uring_sqe* sqe) {
      io_uring_prep_accept(sqe, fd_, nullptr, nullptr, SOCK_CLOEXEC);
    });
    if (stopping_) {
      if (fd >= 0) ::close(fd);
      break;
    }
    if (fd < 0) {
      co_await sleep_until(reactor_, reactor_.now() + 100ms);
    } else if (clients_.size() >= kControlClientsMax) {
      ::close(fd);
    } else {
      // A client that says nothing must not stay for ever.
      const timeval idle{
          .tv_sec = std::chrono::duration_cast<std::chrono::seconds>(kControlIdleMax).count(),
          .tv_usec = 0};
      setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &idle, sizeof idle);
      clients_.push_back(fd);
      gate_.spawn(serve(fd));
    }
  }
  co_return {};
}

namespace {
// Shuts a socket down when its time is over, which ends the receive in progress.
struct IdleTimer final : Timer {
  explicit IdleTimer(int fd) : fd(fd) {}
  void fire() override { shutdown(fd, SHUT_RDWR); }
  int fd;
};
}  // namespace

Task<> ControlServer::serve(int fd) {
  std::string line;
  bool open = true;
  IdleTimer idle(fd);
  while (open && !stopping_) {
    char buffer[4096];
    reactor_.arm(idle, reactor_.now() + kControlIdleMax);
    const i32 count = co_await ring_op(reactor_, [&](io_uring_sqe* sqe) {
      io_uring_prep_recv(sqe, fd, buffer, sizeof buffer, 0);
    });
    reactor_.disarm(idle);
    if (count <= 0) break;
    line.append(buffer, static_cast<std::size_t>(count));
    if (line.size() > kControlLineBytesMax) break;
    for (std::size_t end = line.find('\n'); open && end != std::string::npos;
         end = line.find('\n')) {
      Result<ControlRequest> request = parse_control_request(line.substr(0, end));
      line.erase(0, end + 1);
      Json answer;
      if (request) {
        Result<Json> handled = co_await as_result(handler_.handle(std::move(*request)));
        answer = handled ? std::move(*handled) : error_json(handled.error());
      } else {
        answer = error_json(request.error());
      }
      const std::string text = line_of(answer);
      for (std::size_t at = 0; open && at < text.size();) {
        const i32 sent = co_await ring_op(reactor_, [&](io_uring_sqe* sqe) {
          io_uring_prep_send(sqe, fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
        });
        open = sent > 0;
        if (open) at += static_cast<std::size_t>(sent);
      }
    }
  }
  std::erase(clients_, fd);
  ::close(fd);
  co_return {};
}

Task<> ControlServer::close() {
  stopping_ = true;
  if (fd_ >= 0) {
    shutdown(fd_, SHUT_RDWR);  // ends the accept
    unlink(path_.c_str());
  }
  for (const int fd : clients_) shutdown(fd, SHUT_RDWR);
  co_await gate_.close();
  co_return {};
}

// ---- client

Result<std::optional<Json>> ask_server(const std::string& path, const ControlRequest& request) {
  const int fd = connect_to(path);
  if (fd < 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) return std::optional<Json>();
    return fail(Code::denied, "cannot talk to the server's control socket, errno",
                static_cast<u64>(errno));
  }
  const timeval patience{.tv_sec = kAnswerSecondsMax, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const std::string text = line_of(json_of(request));
  std::string line;
  if (send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size())) {
    char buffer[4096];
    while (line.find('\n') == std::string::npos) {
      const ssize_t count = recv(fd, buffer, sizeof buffer, 0);
      if (count <= 0) break;
      line.append(buffer, static_cast<std::size_t>(count));
    }
  }
  ::close(fd);
  Json answer = Json::parse(line, nullptr, false);
  if (!answer.is_object()) return fail(Code::retry, "the server gave no answer; is it stopping?");
  return std::optional<Json>(std::move(answer));
}

}  // namespace zerofs::tools
