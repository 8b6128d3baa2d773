// Volumes: named block devices of one database. A volume is a record {object, size, flags} under
// the meta key "v/<name>"; its content is the object.
#pragma once

#include <map>

#include "engine/base/sync.h"
#include "engine/db.h"

namespace zerofs::nbd {

constexpr u64 kVolumeBytesMax = kObjectBytesMax;
constexpr u32 kVolumeNameBytesMax = 255;
constexpr u64 kVolumeSizeMultiple = 512;

struct VolumeInfo {
  std::string name;
  ObjectId object;
  u64 size = 0;  // bytes
  bool read_only = false;
  u64 created_unix_seconds = 0;
  u32 sessions = 0;
};

// Shared by its sessions; lives as long as one of them or the set holds it.
class Volume {
 public:
  Volume(Db& db, Executor& executor, VolumeInfo info);
  ~Volume();
  Volume(const Volume&) = delete;

  const std::string& name() const { return info_.name; }
  u64 size() const { return info_.size; }
  bool read_only() const { return info_.read_only; }
  Object& object() { return *object_; }
  VolumeInfo info() const { return info_; }

  void session_begins() { ++info_.sessions; }
  void session_ends() { --info_.sessions; }

  // A request that may change data and was checked against the size, until it is done: shrinking
  // waits for it, so that nothing lands beyond the new end.
  void mutation_begins() { ++mutations_; }
  void mutation_ends() {
    if (--mutations_ == 0) idle_.wake_all();
  }

 private:
  friend class VolumeSet;
  Db& db_;
  VolumeInfo info_;
  Object* object_;
  u32 mutations_ = 0;
  Event idle_;
};

// UTF-8, 1 to 255 bytes, no control characters, no '/', not "." or "..".
Result<> check_volume_name(std::string_view name);
Result<> check_volume_size(u64 size);

class VolumeSet {
 public:
  // Loads every record. Errors: corrupt.
  static Task<std::unique_ptr<VolumeSet>> open(Runtime runtime, Db& db);

  // All of these are durable when they end. Errors: invalid, precondition (exists), not_found,
  // busy (remove: sessions are attached).
  Task<> create(std::string name, u64 size);
  enum class Shrink : u8 { allow, refuse };
  Task<> resize(std::string name, u64 size, Shrink shrink);
  Task<> remove(std::string name);

  std::shared_ptr<Volume> find(std::string_view name) const;
  std::vector<std::shared_ptr<Volume>> list() const;

 private:
  VolumeSet(Runtime runtime, Db& db) : runtime_(runtime), db_(db), turn_(runtime.executor) {}
  struct Turn;
  Task<> lock();

  Runtime runtime_;
  Db& db_;
  std::map<std::string, std::shared_ptr<Volume>, std::less<>> volumes_;
  bool changing_ = false;  // one change at a time
  Event turn_;
};

}  // namespace zerofs::nbd
