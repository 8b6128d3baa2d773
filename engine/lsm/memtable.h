// The memtable: a stack of immutable layers, newest first. Pushing is all that the reactor does;
// workers fold durable neighbours when the newer one is at least half as large as the older, so
// about log2 layers stand. Flushing freezes what is there: frozen layers stay visible until the
// manifest names the tables made of them, and are never folded with newer ones.
#pragma once

#include "engine/base/sync.h"
#include "engine/lsm/layer.h"

namespace zerofs::lsm {

class Memtable {
 public:
  explicit Memtable(Executor& executor) : executor_(executor), gate_(executor) {}

  // On top of everything; the layer's batch is durable.
  void push(LayerRef layer);

  // Resolves what it can of `need`, newest first; returns what is still needed.
  u32 find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) const;
  const MetaEntry* find_meta(std::string_view key) const;

  // Newest first, frozen ones last.
  const std::vector<LayerRef>& layers() const { return layers_; }
  u64 memory_bytes() const { return memory_bytes_; }

  // Freezes everything (what was frozen before stays with it) and returns it, newest first.
  std::vector<LayerRef> freeze();
  bool has_frozen() const { return frozen_ != 0; }
  // Removes the frozen layers: tables hold their content now.
  void drop_frozen();

  // Ends when no fold is in progress; none begins afterwards.
  Task<> close() { return gate_.close(); }

 private:
  struct Sized {
    LayerRef layer;
    u64 bytes = 0;
  };
  Task<> fold_neighbours();
  // Index of the newer of two unfrozen neighbours, if any are worth folding.
  std::optional<std::size_t> next_fold() const;
  void remove(std::size_t begin, std::size_t end);
  Task<> free_on_worker(std::vector<LayerRef> layers);

  Executor& executor_;
  std::vector<LayerRef> layers_;
  std::vector<u64> bytes_;  // of each layer, which takes long to count
  std::size_t frozen_ = 0;  // the last so many
  u64 memory_bytes_ = 0;
  bool folding_ = false;
  Gate gate_;
};

}  // namespace zerofs::lsm
