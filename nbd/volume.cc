#include "nbd/volume.h"

#include <spdlog/spdlog.h>

namespace zerofs::nbd {

namespace {

constexpr const char* kPrefix = "v/";

std::string key_of(std::string_view name) {
  return kPrefix + std::string(name);
}

}  // namespace

Volume::Volume(Db& db, Executor& executor, VolumeInfo info)
    : db_(db), info_(std::move(info)), object_(db.open_object(info_.object)), idle_(executor) {}

Volume::~Volume() {
  db_.close_object(object_);
}

Task<std::unique_ptr<VolumeSet>> VolumeSet::open(Runtime runtime, Db& db) {
  std::unique_ptr<VolumeSet> set(new VolumeSet(runtime, db));
  const std::vector<lsm::MetaEntry> records = co_await db.scan_meta(kPrefix);
  for (const lsm::MetaEntry& record : records) {
    const std::string name = record.key.substr(2);
    Result<VolumeInfo> info = decode_volume_record(name, *record.value);
    if (!info) {
      spdlog::error("volume {}: {}", name, info.error().text());
      co_return std::unexpected(info.error());
    }
    set->volumes_[name] = std::make_shared<Volume>(db, runtime.executor, std::move(*info));
  }
  co_return std::move(set);
}

// Changes happen one after the other.
struct VolumeSet::Turn {
  explicit Turn(VolumeSet& set) : set(set) {}
  ~Turn() {
    set.changing_ = false;
    set.turn_.wake_all();
  }
  Turn(const Turn&) = delete;
  VolumeSet& set;
};

Task<> VolumeSet::lock() {
  while (changing_) co_await turn_.wait();
  changing_ = true;
  co_return {};
}

Task<> VolumeSet::create(std::string name, u64 size) {
  co_await check_volume_name(name);
  co_await check_volume_size(size);
  co_await lock();
  const Turn turn(*this);
  if (volumes_.contains(name)) co_return fail(Code::precondition, "the volume exists already");
  const u64 now = static_cast<u64>(
      std::chrono::duration_cast<std::chrono::seconds>(runtime_.clock.wall().time_since_epoch())
          .count());
  const VolumeInfo info{
      .name = name, .object = db_.new_object_id(), .size = size, .created_unix_seconds = now};
  Transaction transaction;
  transaction.meta.push_back({key_of(name), encode_volume_record(info)});
  co_await db_.commit(std::move(transaction));
  co_await db_.wait_durable(db_.position());
  volumes_[name] = std::make_shared<Volume>(db_, runtime_.executor, info);
  co_return {};
}

Task<> VolumeSet::resize(std::string name, u64 size, Shrink shrink) {
  co_await check_volume_size(size);
  co_await lock();
  const Turn turn(*this);
  const std::shared_ptr<Volume> volume = find(name);
  if (volume == nullptr) co_return fail(Code::not_found, "there is no such volume");
  const u64 before = volume->info_.size;
  if (size == before) co_return {};
  if (size < before && shrink == Shrink::refuse) {
    co_return invalid("this would cut off the end of the volume; add --shrink if you mean it");
  }
  VolumeInfo info = volume->info_;
  info.size = size;
  Transaction transaction;
  transaction.meta.push_back({key_of(name), encode_volume_record(info)});
  if (size < before) {
    // First nothing new may go beyond the new end, then nothing that was let in before.
    volume->info_.size = size;
    while (volume->mutations_ != 0) co_await volume->idle_.wait();
    transaction.truncates.push_back({&volume->object(), size});
  }
  Result<> done = co_await as_result(db_.commit(std::move(transaction)));
  if (!done) {
    volume->info_.size = before;
    co_return done;
  }
  co_await db_.wait_durable(db_.position());
  volume->info_.size = size;
  co_return {};
}

Task<> VolumeSet::remove(std::string name) {
  co_await lock();
  const Turn turn(*this);
  const std::shared_ptr<Volume> volume = find(name);
  if (volume == nullptr) co_return fail(Code::not_found, "there is no such volume");
  if (volume->info_.sessions != 0) {
    co_return fail(Code::busy, "the volume is attached, sessions", volume->info_.sessions);
  }
  // From here on nobody can attach to it.
  volumes_.erase(name);
  Transaction transaction;
  transaction.meta.push_back({key_of(name), std::nullopt});
  transaction.deleted_objects.push_back(volume->info_.object);
  Result<> done = co_await as_result(db_.commit(std::move(transaction)));
  if (!done) {
    volumes_[name] = volume;
    co_return done;
  }
  co_await db_.wait_durable(db_.position());
  co_return {};
}

std::shared_ptr<Volume> VolumeSet::find(std::string_view name) const {
  const auto at = volumes_.find(name);
  return at == volumes_.end() ? nullptr : at->second;
}

std::vector<std::shared_ptr<Volume>> VolumeSet::list() const {
  std::vector<std::shared_ptr<Volume>> out;
  for (const auto& [name, volume] : volumes_) out.push_back(volume);
  return out;
}

}  // namespace zerofs::nbd
