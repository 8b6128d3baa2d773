#include "tests/s3/scripted_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace zerofs::s3::test {

void ScriptedServer::Connection::send(const std::string& bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) {
      open = false;
      return;
    }
    sent += static_cast<std::size_t>(n);
  }
}

void ScriptedServer::Connection::reply(u32 status, const std::string& headers,
                                       const std::string& body) {
  send(fmt::format("HTTP/1.1 {} x\r\nContent-Length: {}\r\n{}\r\n{}", status, body.size(), headers,
                   body));
}

void ScriptedServer::Connection::reply_error(u32 status, const std::string& code,
                                             const std::string& headers) {
  reply(
      status, "Content-Type: application/xml\r\n" + headers,
      fmt::format("<?xml version=\"1.0\"?><Error><Code>{}</Code><Message>said {}</Message></Error>",
                  code, code));
}

void ScriptedServer::Connection::close() {
  open = false;
}

void ScriptedServer::Connection::reset() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  open = false;
}

void ScriptedServer::Connection::hang() {
  std::unique_lock lock(server->mutex_);
  server->changed_.wait(lock, [this] { return server->stopping_ || server->gate_open_; });
}

ScriptedServer::ScriptedServer(Script script, u16 port) : script_(std::move(script)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  INVARIANT(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  INVARIANT(listen(listener_, 64) == 0);
  socklen_t size = sizeof address;
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { accept_all(); });
}

ScriptedServer::~ScriptedServer() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    for (const int fd : open_) shutdown(fd, SHUT_RDWR);
  }
  changed_.notify_all();
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  ::close(listener_);
}

std::string ScriptedServer::endpoint() const {
  return fmt::format("http://127.0.0.1:{}", port_);
}

std::vector<Seen> ScriptedServer::seen() const {
  const std::scoped_lock lock(mutex_);
  return seen_;
}

u32 ScriptedServer::connections() const {
  const std::scoped_lock lock(mutex_);
  return connections_;
}

void ScriptedServer::open_gate() {
  {
    const std::scoped_lock lock(mutex_);
    gate_open_ = true;
  }
  changed_.notify_all();
}

void ScriptedServer::wait_for(u32 requests) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return seen_.size() >= requests; });
}

void ScriptedServer::wait_until_quiet() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return open_.empty(); });
}

void ScriptedServer::accept_all() {
  for (;;) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::scoped_lock lock(mutex_);
    if (stopping_ || fd < 0) {
      if (fd >= 0) ::close(fd);
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    open_.push_back(fd);
    ++connections_;
    threads_.emplace_back([this, fd, number = connections_] { serve(fd, number); });
  }
}

void ScriptedServer::serve(int fd, u32 number) {
  std::string buffer;
  Connection connection;
  connection.server = this;
  connection.fd = fd;
  while (connection.open) {
    Seen seen{.connection = number};
    if (!read_request(fd, buffer, seen)) break;
    {
      const std::scoped_lock lock(mutex_);
      seen.number = static_cast<u32>(seen_.size()) + 1;
      seen_.push_back(seen);
    }
    changed_.notify_all();
    script_(seen, connection);
  }
  {
    const std::scoped_lock lock(mutex_);
    std::erase(open_, fd);
    ::close(fd);
  }
  changed_.notify_all();
}

bool ScriptedServer::read_request(int fd, std::string& buffer, Seen& seen) {
  const auto more = [&] {
    char chunk[65536];
    const ssize_t n = recv(fd, chunk, sizeof chunk, 0);
    if (n <= 0) return false;
    buffer.append(chunk, static_cast<std::size_t>(n));
    return true;
  };
  std::size_t end;
  while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
    if (!more()) return false;
  }
  std::string head = buffer.substr(0, end + 2);
  buffer.erase(0, end + 4);
  const std::size_t space = head.find(' ');
  const std::string target = head.substr(space + 1, head.find(' ', space + 1) - space - 1);
  seen.method = head.substr(0, space);
  seen.path = target.substr(0, target.find('?'));
  if (target.find('?') != std::string::npos) seen.query = target.substr(target.find('?') + 1);
  head.erase(0, head.find("\r\n") + 2);
  while (!head.empty()) {
    const std::size_t line = head.find("\r\n");
    const std::size_t colon = head.find(':');
    std::string name = head.substr(0, colon);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::size_t value = head.find_first_not_of(' ', colon + 1);
    seen.headers[name] = head.substr(value, line - value);
    head.erase(0, line + 2);
  }
  if (!deaf_to.empty() && seen.path.find(deaf_to) != std::string::npos) return true;
  const std::size_t length = std::strtoull(seen.header("content-length").c_str(), nullptr, 10);
  while (buffer.size() < length) {
    if (!more()) return false;
  }
  seen.body = buffer.substr(0, length);
  buffer.erase(0, length);
  return true;
}

}  // namespace zerofs::s3::test
