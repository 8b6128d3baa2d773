// The NBD server: listeners and their connections, all on one reactor.
#pragma once

#include <list>

#include "engine/base/reactor.h"
#include "nbd/budget.h"
#include "nbd/volume.h"

namespace zerofs::nbd {

struct ListenAddress {
  std::string unix_path;  // if not empty, a unix socket
  std::string host;       // else TCP
  u16 port = 10809;       // 0: a free one is chosen
};
// "unix:PATH", "HOST:PORT", "HOST", ":PORT", "[V6]:PORT". Errors: invalid.
Result<ListenAddress> parse_listen_address(std::string_view text);

struct ServerOptions {
  std::string default_export;  // for clients that ask for ""; else the only volume
  u32 connections_max = 256;
  Duration handshake_max = 10s;
  u32 unix_mode = 0600;
  Duration stall_max = 15s;  // of a client, while others need the memory that it holds
};

struct ServerStats {
  u64 connections = 0;  // now
  u64 accepted = 0;     // ever
  u64 requests = 0;
};

class Connection;

class Server {
 public:
  Server(Reactor& reactor, Runtime runtime, Db& db, VolumeSet& volumes, ServerOptions options);
  ~Server();
  Server(const Server&) = delete;

  // Starts accepting; yields the address with the port that was chosen. A stale unix socket is
  // replaced, a live one is not. Errors: busy (the address is in use), denied, invalid.
  Result<ListenAddress> listen(const ListenAddress& address);

  // Stops accepting, answers requests in progress, new ones with ESHUTDOWN, closes. Ends when all
  // connections are gone.
  Task<> shutdown();
  // Ends the sessions of one volume, or all, without waiting for their requests.
  Task<> close_sessions_of(Volume& volume);
  void close_all_sessions();

  ServerStats stats() const;

 private:
  friend class Connection;
  class Listener;
  struct StallTimer final : Timer {
    explicit StallTimer(Server& server) : server(server) {}
    void fire() override { server.end_stalled(); }
    Server& server;
  };
  void accepted(int fd, bool is_tcp);
  void gone(Connection& connection);
  void wait_for_budget();
  void budget_freed();
  void end_stalled();

  Reactor& reactor_;
  Runtime runtime_;
  Db& db_;
  VolumeSet& volumes_;
  ServerOptions options_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<std::unique_ptr<Connection>> connections_;
  ServerStats stats_;
  Budget budget_;
  bool budget_wanted_ = false;  // a connection waits for the others to hold less
  StallTimer stall_timer_;
  bool stopping_ = false;
  Event changed_;
  Gate gate_;
};

}  // namespace zerofs::nbd
