// The control socket: how commands talk to a running server. A unix socket, one JSON object per
// line in each direction; mode 0600, so only the server's user gets in.
//
//   {"command": "volume create", "name": "data", "size": 10737418240}
//   {"ok": true}          {"ok": false, "code": "invalid", "error": "…"}
#pragma once

#include "engine/base/reactor.h"
#include "tools/control_request.h"

namespace zerofs::tools {

constexpr std::size_t kControlLineBytesMax = 64 * kKiB;
constexpr u32 kControlClientsMax = 16;
constexpr Duration kControlIdleMax = 30s;

// The default socket of a store's server: under $XDG_RUNTIME_DIR/zerofs, /run/zerofs for root,
// /tmp/zerofs-<uid> otherwise.
std::string default_control_path(const std::string& canonical_store);

Json error_json(const Error& error);
Json ok_json();

// Serves requests one after the other per client.
class ControlServer {
 public:
  class Handler {
   public:
    virtual ~Handler() = default;
    virtual Task<Json> handle(ControlRequest request) = 0;
  };
  ControlServer(Reactor& reactor, Handler& handler);
  ~ControlServer();
  // Errors: busy (a live server has it), denied, invalid.
  Result<> listen(const std::string& path);
  Task<> close();

 private:
  class Client;
  Task<> accept_loop();
  Task<> serve(int fd);

  Reactor& reactor_;
  Handler& handler_;
  std::string path_;
  int fd_ = -1;
  bool stopping_ = false;
  std::vector<int> clients_;
  Gate gate_;
};

// Asks the server at `path`. None: nobody listens there. Errors: retry (it does not answer).
Result<std::optional<Json>> ask_server(const std::string& path, const ControlRequest& request);

}  // namespace zerofs::tools
