// An HTTP server on loopback that does whatever a test says, down to resets in mid-body. One thread
// per connection; the script runs on it, once per request.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/types.h"

namespace zerofs::s3::test {

struct Seen {
  std::string method;
  std::string path;
  std::string query;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  u32 number = 0;      // among all requests, from 1
  u32 connection = 0;  // from 1

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

class ScriptedServer {
 public:
  class Connection {
   public:
    // A whole answer with its length.
    void reply(u32 status, const std::string& headers, const std::string& body);
    void reply_error(u32 status, const std::string& code, const std::string& headers = "");
    void send(const std::string& bytes);
    void close();  // after what was sent
    void reset();  // with RST
    // Until the server ends or `open_gate` was called.
    void hang();

   private:
    friend class ScriptedServer;
    ScriptedServer* server = nullptr;
    int fd = -1;
    bool open = true;
  };
  using Script = std::function<void(const Seen&, Connection&)>;

  // A port of 0 takes a free one.
  explicit ScriptedServer(Script script, u16 port = 0);
  ~ScriptedServer();
  ScriptedServer(const ScriptedServer&) = delete;

  u16 port() const { return port_; }
  std::string endpoint() const;
  std::vector<Seen> seen() const;
  u32 connections() const;
  // Lets everything that hangs go on, now and later.
  void open_gate();
  // Until this many requests have come.
  void wait_for(u32 requests);
  // Until no connection is open.
  void wait_until_quiet();

  // Does not read bodies of requests to paths that contain this.
  std::string deaf_to;

 private:
  void accept_all();
  void serve(int fd, u32 number);
  bool read_request(int fd, std::string& buffer, Seen& seen);

  Script script_;
  int listener_ = -1;
  u16 port_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Seen> seen_;
  std::vector<int> open_;
  u32 connections_ = 0;
  bool gate_open_ = false;
  bool stopping_ = false;
  std::thread acceptor_;
  std::vector<std::thread> threads_;
};

}  // namespace zerofs::s3::test
