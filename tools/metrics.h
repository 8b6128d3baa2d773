// --metrics: the Prometheus endpoint, text over HTTP by prometheus-cpp, on threads of its own.
//
// A scrape never holds the reactor up: it posts a message and waits, the reactor copies a few dozen
// numbers in passing. While the reactor is busy a scrape gets the numbers of the one before.
#pragma once

#include "engine/base/reactor.h"
#include "engine/db.h"
#include "nbd/server.h"
#include "s3/s3_store.h"

namespace zerofs::tools {

// The store as its users feel it.
struct StoreHealth {
  Duration failing_for{};  // 0: all is well
  u64 waiting_bytes = 0;   // acknowledged, not yet durable
  std::string error;       // the last one while failing
};

class Metrics {
 public:
  struct Numbers {
    DbStatus db;
    nbd::ServerStats nbd;
    StoreHealth health;
    double uptime_seconds = 0;
  };
  class Source {
   public:
    virtual ~Source() = default;
    virtual Numbers numbers() const = 0;  // on the reactor's thread
  };

  // `address` is HOST:PORT, or PORT on the loopback. `s3` may be null; all outlive the object.
  // Errors: invalid (not an address, or it is taken).
  static Result<std::unique_ptr<Metrics>> start(const std::string& address, Reactor& reactor,
                                                const Source& source, const s3::S3Store* s3);
  ~Metrics();
  u16 port() const;
  // On the reactor's thread, before it ends.
  Task<> close();

 private:
  struct Impl;
  explicit Metrics(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zerofs::tools
