// zerofs serve: wires everything together and keeps it running.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>

#include "engine/base/io.h"
#include "nbd/server.h"
#include "tools/commands.h"
#include "tools/metrics.h"
#include "tools/sizes.h"

namespace zerofs::tools {

using store::FileStore;

namespace {

// How often the store's health is looked at, and after how long an outage is worth a line.
constexpr Duration kHealthInterval = 2s;

class Service final : public ControlServer::Handler, public SessionCloser, public Metrics::Source {
 public:
  Service(Host& host, const Options& options)
      : host_(host),
        options_(options),
        control_(host.reactor(), *this),
        stop_(host.reactor()),
        gate_(host.reactor()),
        started_(host.reactor().now()) {}

  Task<Exit> run();

 private:
  Task<> start();
  Task<> create_volumes();
  Task<> listen();
  Task<> watch_signals();
  Task<> watch_fence();
  Task<> watch_store();
  Task<> shut_down();
  Json status() const;
  StoreHealth health(const DbStatus& db) const;
  double uptime_seconds() const {
    return std::chrono::duration<double>(host_.reactor().now() - started_).count();
  }
  Metrics::Numbers numbers() const override;

  Task<Json> handle(ControlRequest request) override {
    if (request.command == "status") co_return status();
    co_return co_await execute_volume_command(host_.volumes(), *this, std::move(request));
  }
  Task<> close_sessions(nbd::Volume& volume) override { return server_->close_sessions_of(volume); }

  Host& host_;
  const Options& options_;
  ControlServer control_;
  std::unique_ptr<nbd::Server> server_;
  std::unique_ptr<Metrics> metrics_;
  std::vector<nbd::ListenAddress> addresses_;
  Event stop_;
  Gate gate_;
  Instant started_;
  int signals_ = -1;
  bool stopping_ = false;
  bool watching_ = false;
};

Task<> Service::start() {
  if (options_.serve.init) {
    const bool there = co_await host_.exists();
    if (!there) co_await host_.init();
  }
  co_await host_.open("server");
  co_return {};
}

Task<> Service::create_volumes() {
  for (const auto& [name, size] : options_.serve.volumes) {
    const std::shared_ptr<nbd::Volume> volume = host_.volumes().find(name);
    if (volume == nullptr) {
      co_await host_.volumes().create(name, size);
      spdlog::info("created volume {} of {}", name, format_size(size));
    } else if (volume->size() != size) {
      fmt::print(stderr,
                 "zerofs: volume {} exists with {} bytes, not {}; to change it use\n"
                 "  zerofs volume resize {} SIZE --store {}\n",
                 name, volume->size(), size, name, options_.database.store);
      co_return invalid("a volume exists with another size");
    }
  }
  co_return {};
}

Task<> Service::listen() {
  server_ = std::make_unique<nbd::Server>(
      host_.reactor(), host_.runtime(), host_.db(), host_.volumes(),
      nbd::ServerOptions{.default_export = options_.serve.default_export,
                         .connections_max = options_.serve.connections_max});
  for (const std::string& text : options_.serve.nbd) {
    const Result<nbd::ListenAddress> wanted = nbd::parse_listen_address(text);
    if (!wanted) {
      explain(fmt::format("--nbd={}", text), wanted.error());
      co_return std::unexpected(wanted.error());
    }
    const Result<nbd::ListenAddress> bound = server_->listen(*wanted);
    if (!bound) {
      explain(fmt::format("--nbd={}", text), bound.error());
      co_return std::unexpected(bound.error());
    }
    addresses_.push_back(*bound);
  }
  const Result<> controlled = control_.listen(control_path(options_));
  if (!controlled) {
    explain(control_path(options_), controlled.error());
    co_return controlled;
  }
  if (!options_.serve.metrics.empty()) {
    Result<std::unique_ptr<Metrics>> metrics =
        Metrics::start(options_.serve.metrics, host_.reactor(), *this, host_.s3());
    if (!metrics) {
      explain("--metrics", metrics.error());
      co_return std::unexpected(metrics.error());
    }
    metrics_ = std::move(*metrics);
  }
  co_return {};
}

void print_attachment(const nbd::ListenAddress& address, const nbd::Volume& volume) {
  if (!address.unix_path.empty()) {
    fmt::print("volume {} ({}): nbd+unix:///{}?socket={}\n", volume.name(),
               format_size(volume.size()), volume.name(), address.unix_path);
    fmt::print("  attach: nbd-client -b 4096 -unix {} -name {} /dev/nbd0\n", address.unix_path,
               volume.name());
    return;
  }
  const bool v6 = address.host.find(':') != std::string::npos;
  const std::string host = v6 ? "[" + address.host + "]" : address.host;
  fmt::print("volume {} ({}): nbd://{}:{}/{}\n", volume.name(), format_size(volume.size()), host,
             address.port, volume.name());
  fmt::print("  attach: nbd-client -b 4096 -name {} {} {} /dev/nbd0\n", volume.name(), address.host,
             address.port);
}

// Uploads tell of trouble even where the store itself does not know (a full disk); the S3 client
// knows of reads, too.
StoreHealth Service::health(const DbStatus& db) const {
  StoreHealth out{.failing_for = db.store_failing_for,
                  .waiting_bytes = db.dirty_bytes,
                  .error = db.store_error};
  if (host_.s3() == nullptr) return out;
  const s3::State state = host_.s3()->state();
  if (state.reachable) return out;
  out.failing_for = std::max(out.failing_for, state.failing_for);
  out.error = state.last_error;
  return out;
}

Metrics::Numbers Service::numbers() const {
  DbStatus db = host_.db().status();
  StoreHealth store = health(db);
  return {.db = std::move(db),
          .nbd = server_->stats(),
          .health = std::move(store),
          .uptime_seconds = uptime_seconds()};
}

void add_s3_status(Json& out, const s3::Counters& s3) {
  out["s3_requests"] = s3.requests();
  out["s3_puts"] = s3.requests(s3::Operation::put);
  out["s3_gets"] = s3.requests(s3::Operation::get);
  out["s3_hedges"] = s3.hedges;
  out["s3_dollars"] = s3.dollars;
}

Json Service::status() const {
  const DbStatus db = host_.db().status();
  const StoreHealth store = health(db);
  const nbd::ServerStats nbd = server_->stats();
  Json out = ok_json();
  out["pid"] = getpid();
  out["uptime_seconds"] = static_cast<u64>(uptime_seconds());
  out["store"] = host_.canonical();
  out["term"] = db.term.value;
  out["manifest_version"] = db.manifest_version;
  out["log_sealed"] = db.log_sealed;
  out["log_durable"] = db.log_durable;
  out["memory_bytes"] = db.memory_bytes;
  out["dirty_bytes"] = db.dirty_bytes;
  out["dirty_bytes_max"] = db.dirty_bytes_max;
  out["cache_pages"] = db.cache_pages;
  out["cache_pages_max"] = db.cache_pages_max;
  out["layer_bytes"] = db.layer_bytes;
  out["layers"] = db.layers;
  out["tables"] = db.tables;
  out["tables_level0"] = db.tables_level0;
  out["compactions"] = db.compactions;
  out["index_bytes"] = db.index_bytes;
  out["flush_tokens"] = db.flush_tokens;
  out["user_bytes_written"] = db.user_bytes_written;
  out["store_bytes_written"] = db.store_bytes_written;
  out["reads_from_store"] = db.reads_from_store;
  out["store_failing_seconds"] = std::chrono::duration<double>(store.failing_for).count();
  out["store_error"] = store.error;
  if (host_.s3() != nullptr) add_s3_status(out, host_.s3()->counters());
  out["nbd_connections"] = nbd.connections;
  out["nbd_accepted"] = nbd.accepted;
  out["nbd_requests"] = nbd.requests;
  return out;
}

// The first SIGTERM or SIGINT stops in good order, the second gives up what is not durable yet.
Task<> Service::watch_signals() {
  while (watching_) {
    signalfd_siginfo info{};
    const i32 count = co_await ring_op(host_.reactor(), [&](io_uring_sqe* sqe) {
      io_uring_prep_read(sqe, signals_, &info, sizeof info, 0);
    });
    if (!watching_) break;
    if (count != sizeof info) continue;
    if (!stopping_) {
      spdlog::info("signal {}: shutting down; a second one gives up what is not durable yet",
                   info.ssi_signo);
      stopping_ = true;
      stop_.wake_all();
    } else {
      spdlog::warn("signal {}: giving up", info.ssi_signo);
      host_.db().abandon();
    }
  }
  co_return {};
}

Task<> Service::watch_fence() {
  const bool fenced = co_await host_.db().wait_fenced();
  if (fenced) {
    server_->close_all_sessions();
    stop_.wake_all();
  }
  co_return {};
}

// An outage gets a line when it is noticed and whenever it has doubled; the store and the log say
// when it is over.
Task<> Service::watch_store() {
  WakeTimer timer(host_.reactor(), stop_);
  Instant next_look{};
  Duration worth_a_line = kHealthInterval;
  while (watching_) {
    const Instant now = host_.reactor().now();
    if (now >= next_look) {
      next_look = now + kHealthInterval;
      const StoreHealth store = health(host_.db().status());
      const auto whole = [](Duration d) {
        return std::chrono::duration_cast<std::chrono::seconds>(d);
      };
      const char* name = host_.s3() != nullptr ? "S3" : "the store";
      if (store.failing_for >= worth_a_line) {
        spdlog::warn("{} unreachable for {} s, {} waiting: {}", name,
                     whole(store.failing_for).count(), format_size(store.waiting_bytes),
                     store.error);
        worth_a_line = 2 * store.failing_for;
      } else if (store.failing_for == Duration{}) {
        worth_a_line = kHealthInterval;
      }
    }
    timer.arm(next_look);
    co_await stop_.wait();
  }
  co_return {};
}

Task<Exit> Service::run() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC);

  const Result<> opened = co_await as_result(start());
  if (!opened) {
    explain(options_.database.store, opened.error());
    co_return exit_for(opened.error());
  }
  Result<> ready = co_await as_result(create_volumes());
  if (!ready) explain("--volume", ready.error());
  if (ready) ready = co_await as_result(listen());
  if (ready) {
    watching_ = true;
    gate_.spawn(watch_signals());
    gate_.spawn(watch_fence());
    gate_.spawn(watch_store());
    for (const nbd::ListenAddress& address : addresses_) {
      for (const auto& volume : host_.volumes().list()) print_attachment(address, *volume);
    }
    if (host_.volumes().list().empty()) {
      fmt::print("no volumes yet; create one: zerofs volume create NAME SIZE --store {}\n",
                 options_.database.store);
    }
    if (metrics_ != nullptr) {
      fmt::print("metrics: http://127.0.0.1:{}/metrics\n", metrics_->port());
    }
    fmt::print("ready\n");
    std::fflush(stdout);
    while (!stopping_ && !host_.db().fenced()) co_await stop_.wait();
  }

  // In the reverse order: no new requests, then no sessions, then the database.
  co_await control_.close();
  if (metrics_ != nullptr) co_await metrics_->close();
  if (server_ != nullptr) {
    if (host_.db().fenced()) server_->close_all_sessions();
    co_await server_->shutdown();
  }
  const bool fenced = host_.db().fenced();
  server_.reset();
  const Result<> closed = co_await as_result(host_.close());
  if (watching_) {
    // Ends the read of the signal descriptor.
    watching_ = false;
    stop_.wake_all();
    kill(getpid(), SIGTERM);
    co_await gate_.close();
  }
  ::close(signals_);
  if (fenced) {
    fmt::print(stderr,
               "zerofs: another process has taken over the database; this one stops. "
               "Clients must attach to the new server.\n");
    co_return Exit::failed;
  }
  if (!closed) {
    explain("closing the database", closed.error());
    co_return exit_for(closed.error());
  }
  if (!ready) co_return exit_for(ready.error());
  spdlog::info("closed");
  co_return Exit::ok;
}

}  // namespace

Exit run_serve(const Options& options) {
  const auto if_missing =
      options.serve.init ? FileStore::IfMissing::create : FileStore::IfMissing::fail;
  Result<std::unique_ptr<Host>> host = Host::start(
      options.database, if_missing, options.serve.worker_threads, options.serve.worker_niceness);
  if (!host) return exit_for(host.error());
  Service service(**host, options);
  const Result<Exit> exit = (*host)->run(service.run());
  return exit ? *exit : exit_for(exit.error());
}

}  // namespace zerofs::tools
