// A TCP proxy that behaves like a bad network in front of an S3 server.
//
// Each connection is two pipes. A pipe's bytes pass the link (one per direction, shared by all
// connections in turn, of a certain rate), then a delay line, then the other socket. What waits for
// the link waits in the sender's kernel, so that the link is fair and senders feel it.
//
// Faults are drawn per HTTP request, when its head has passed, from a seeded generator: one request
// is in flight on a connection at a time, so a fault that hits the response waits on the
// connection. One thread, epoll.
#pragma once

#include <netinet/in.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/fault_proxy/http_scan.h"

namespace fault_proxy {

using Clock = std::chrono::steady_clock;
using Instant = Clock::time_point;
using Duration = std::chrono::nanoseconds;

enum class Fault : std::uint8_t {
  none,
  reset,     // connection reset in the middle of the request's or the response's bytes
  truncate,  // the response ends too early, in good order
  stall,     // the response stops in its middle; the connection stays
  drop,      // the server did what was asked; the client gets a reset instead of the answer
  answer,    // the server sees nothing; the client gets a canned answer
};
constexpr std::size_t kFaultCount = 6;
extern const char* const kFaultNames[kFaultCount];

enum class Outage : std::uint8_t {
  off,
  reset,   // connections are reset, new ones too
  silent,  // connections are accepted and nothing passes
};

struct Settings {
  Duration delay{};             // each way
  Duration jitter{};            // up to this much more, each way, in order
  double bytes_per_second = 0;  // of the link, each way; 0: as fast as it goes
  double probability[kFaultCount] = {};
  std::string method;  // faults hit requests of this method only; empty: all
  std::string answer;  // the whole response, head and body
  Outage outage = Outage::off;
};

struct Counters {
  std::map<std::string, std::uint64_t> requests;  // by method
  std::map<int, std::uint64_t> responses;         // by status
  std::uint64_t bytes[2] = {};                    // up (to the server), down
  std::uint64_t connections = 0;
  std::uint64_t faults[kFaultCount] = {};
};

class Proxy {
 public:
  Proxy(std::uint16_t port, std::vector<sockaddr_in> upstreams);
  ~Proxy();
  std::uint16_t port() const { return port_; }

  // Runs until standard input ends.
  void run();

 private:
  struct Chunk;
  struct Pipe;
  struct Connection;
  using Block = std::unique_ptr<char[]>;

  // control.cc: one line of standard input, its answer on standard output.
  void read_commands();
  std::string execute(const std::string& line);
  std::string set(const std::string& name, const std::string& value);
  std::string statistics() const;

  void accept_all();
  void on_event(Connection& connection, bool client_side, std::uint32_t events);
  void want_link(Pipe& pipe);
  void run_link(int direction, Instant now);
  void take_from(Pipe& pipe, Instant now);
  void scan_request(Pipe& pipe, std::string_view bytes, std::string& out, Instant now);
  void scan_response(Pipe& pipe, Chunk& chunk);
  void begin_request(Connection& connection);
  void answer(Connection& connection, Instant now);
  void send(Pipe& pipe, Chunk chunk, Instant now);
  void deliver(Pipe& pipe, Instant now);
  void deliver_due(Instant now);
  void schedule(Pipe& pipe);
  void kill(Connection& connection, bool reset);
  void reset_all();
  void resume_all();  // after an outage
  void bury();
  Duration until_next(Instant now) const;

  Block take_block();
  void give_block(Block block);

  int epoll_ = -1;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::vector<sockaddr_in> upstreams_;
  std::size_t next_upstream_ = 0;
  std::list<Connection> connections_;
  std::vector<Connection*> dead_;
  std::deque<Pipe*> waiting_[2];             // for the link, by direction
  Instant link_free_[2];                     // when the link has carried what it was given
  std::set<std::pair<Instant, Pipe*>> due_;  // pipes whose first chunk waits for its time
  std::vector<Block> blocks_;
  std::string scratch_;

  Settings settings_;
  Counters counters_;
  std::deque<std::string> trace_;  // request lines, the newest last
  std::mt19937_64 random_{1};
  std::string input_;
  bool ended_ = false;
};

}  // namespace fault_proxy
