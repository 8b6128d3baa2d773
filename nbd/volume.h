// Volumes: named block devices of one database. A volume is a record (volume_record.h) in the
// metadata; its content is the object that the record names.
#pragma once

#include <map>

#include "engine/base/sync.h"
#include "nbd/volume_record.h"

namespace zerofs::nbd {

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
