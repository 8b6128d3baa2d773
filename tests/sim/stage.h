// Where plays are performed: the world with its store, the database, and the instances that open
// it; one of them may be about to crash.
#pragma once

#include "tests/sim/node.h"

namespace zerofs::sim {

class Stage : SimStore::Watcher {
 public:
  explicit Stage(World& world);
  ~Stage() override;

  World& world() { return world_; }
  SimStore& store() { return world_.store(); }
  Oracle& oracle() { return *oracle_; }
  Site& site() { return *site_; }
  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }

  void create_database();
  Node& launch(Node::Options options);
  // Cuts it off, if it still runs, and forgets it.
  void bury(Node& node);

  // The node's crash: after so many steps of the world, or right after so many of its creates took
  // effect (0: not for this reason).
  void doom(Node& node, u64 steps, u64 effects);
  bool doomed() const { return victim_ != nullptr; }
  void spare() { victim_ = nullptr; }
  // Instead of crashing, the doomed one is frozen (and no longer doomed).
  bool freeze_instead = false;

  // Runs until `done` says so; false when `limit` passes first.
  template <class Done>
  bool run_until(Done done, Duration limit) {
    const Instant end = world_.now() + limit;
    while (!done()) {
      if (world_.now() > end || !world_.step()) return false;
      after_step();
    }
    return true;
  }
  // Called after each step, before anything else happens.
  struct Tender {
    virtual ~Tender() = default;
    virtual void tend() = 0;
  };
  Tender* tender = nullptr;

 private:
  void create_applied(const Process* from, const std::string& name) override;
  void after_step();
  void watch_for_hangs();

  World& world_;
  std::unique_ptr<format::DatabaseKeys> keys_;
  std::unique_ptr<Oracle> oracle_;
  std::unique_ptr<Site> site_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Node* victim_ = nullptr;
  u64 victim_steps_ = 0;
  u64 victim_effects_ = 0;
  bool crash_now_ = false;
  u32 next_id_ = 1;
};

constexpr Duration kOpeningMax = std::chrono::hours(1);
constexpr Duration kHangMax = 45 * 60s;

}  // namespace zerofs::sim
