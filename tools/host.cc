#include "tools/host.h"

#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>

#include "engine/store/probe.h"
#include "tools/keys.h"
#include "tools/owner.h"

namespace zerofs::tools {

namespace {
constexpr u32 kStoreThreads = 16;  // they wait for disks, not for cores

SecretSource source_of(const DatabaseOptions& options) {
  return {.key_file = options.key_file, .password_file = options.password_file};
}
}  // namespace

void explain(std::string_view what, const Error& error) {
  fmt::print(stderr, "zerofs: {}: {}", what, error.text());
  if (error.id() != 0) fmt::print(stderr, " ({})", error.id());
  fmt::print(stderr, "\n");
  switch (error.code()) {
    case Code::busy:
      fmt::print(stderr,
                 "If that process is surely gone, or should lose the database, add --takeover.\n");
      break;
    case Code::corrupt:
      fmt::print(stderr, "The log above names the damaged object. Nothing was changed.\n");
      break;
    case Code::fenced:
      fmt::print(stderr, "Another process has opened the database since.\n");
      break;
    default: break;
  }
}

Result<std::unique_ptr<Host>> Host::start(const DatabaseOptions& options,
                                          store::FileStore::IfMissing if_missing,
                                          u32 worker_threads, int worker_niceness) {
  std::unique_ptr<Host> host(new Host);
  host->options_ = options;
  const u32 cores = std::max(1u, std::thread::hardware_concurrency());
  host->workers_ = std::make_unique<WorkerPool>(
      WorkerPool::Options{.threads = worker_threads != 0 ? worker_threads : cores,
                          .niceness = worker_niceness,
                          .urgent_threads = 1,
                          .name = "zerofs-work"});
  host->store_threads_ = std::make_unique<WorkerPool>(
      WorkerPool::Options{.threads = kStoreThreads, .name = "zerofs-store"});
  Result<std::unique_ptr<Reactor>> reactor = Reactor::create(*host->workers_, {});
  if (!reactor) {
    explain("cannot start", reactor.error());
    return std::unexpected(reactor.error());
  }
  host->reactor_ = std::move(*reactor);
  Result<OpenStore> store =
      open_store(options, if_missing, host->runtime(), *host->store_threads_, *host->reactor_);
  if (!store) {
    explain(options.store, store.error());
    return std::unexpected(store.error());
  }
  host->store_ = std::move(*store);
  return host;
}

Host::~Host() {
  volumes_.reset();
  db_.reset();
}

Task<bool> Host::exists() {
  const std::vector<std::string> names = co_await store().list(format::kManifestPrefix, "", 1);
  co_return !names.empty();
}

Task<> Host::init() {
  const bool there = co_await exists();
  if (there) co_return fail(Code::precondition, "a database exists there already");
  co_await store::probe_thoroughly(runtime(), store());
  format::KeyMaterial material = co_await obtain_key_material(source_of(options_), Purpose::create);
  // An init that was interrupted after the key slot goes on with that key.
  Result<format::DataKey> key =
      co_await as_result(create_key_slot(store(), material.copy(), random_));
  if (!key && key.error().code() == Code::precondition) {
    std::vector<u64> slots = co_await find_key_slots(store());
    key = co_await as_result(unlock(store(), std::move(slots), std::move(material)));
  }
  format::DataKey data_key = co_await std::move(key);
  const format::DatabaseKeys keys(data_key.key, data_key.database);
  sodium_memzero(data_key.key.data(), data_key.key.size());
  co_await Db::create(runtime(), store(), keys);
  spdlog::info("created a database in {}", store_.canonical);
  co_return {};
}

Task<> Host::open(std::string role) {
  co_await store::probe_at_start(runtime(), store(), probe_place(canonical()));
  std::vector<u64> slots = co_await find_key_slots(store());
  format::KeyMaterial material = co_await obtain_key_material(source_of(options_), Purpose::unlock);
  format::DataKey data_key = co_await unlock(store(), std::move(slots), std::move(material));
  keys_ = std::make_unique<format::DatabaseKeys>(data_key.key, data_key.database);
  sodium_memzero(data_key.key.data(), data_key.key.size());
  DbOptions options;
  options.memory_bytes = options_.memory_bytes;
  options.takeover = options_.takeover;
  options.owner = this_process(std::move(role));
  options.owner_is_gone = is_gone;
  db_ = co_await Db::open(runtime(), store(), *keys_, std::move(options));
  Result<std::unique_ptr<nbd::VolumeSet>> volumes =
      co_await as_result(nbd::VolumeSet::open(runtime(), *db_));
  if (!volumes) {
    static_cast<void>(co_await as_result(db_->close()));  // the first error is the one to tell
    db_.reset();
    co_return std::unexpected(volumes.error());
  }
  volumes_ = std::move(*volumes);
  co_return {};
}

Task<> Host::close() {
  volumes_.reset();
  if (db_ == nullptr) co_return {};
  const Result<> closed = co_await as_result(db_->close());
  db_.reset();
  co_return closed;
}

}  // namespace zerofs::tools
