// Writes the play of one seed: weather, lives of database instances, how each of them ends.
#pragma once

#include "tests/sim/node.h"

namespace zerofs::sim {

class Director : SimStore::Watcher {
 public:
  // `lives` database instances in a row, some beside each other.
  explicit Director(World& world);
  ~Director() override;
  void run();

 private:
  enum class Ending : u8 { crash_step, crash_effect, close, close_abruptly, freeze, partition };
  struct Play {
    Ending ending = Ending::crash_step;
    u64 steps = 0;       // until the crash
    u64 effects = 0;     // creates until the crash
    Duration serve{};    // before it ends otherwise
    bool race = false;   // another opener at the same time
    bool outage = false;
  };
  struct Zombie {
    Node* node;
    Instant resume_at;
    Instant kill_at;
    bool resumed = false;
  };

  void create_database();
  void draw_weather();
  DbOptions draw_options();
  Play draw_play();
  Node& launch(bool takeover, u32 host);
  void bury(Node& node);
  void live(const Play& play);
  void finish();
  void damage();
  void create_applied(const Process* from, const std::string& name) override;
  // Runs until `done` says so or `limit` has passed; false then.
  template <class Done>
  bool run_until(Done done, Duration limit);
  void tend_zombies();
  void watch_for_hangs();

  World& world_;
  Rng rng_;
  std::unique_ptr<format::DatabaseKeys> keys_;
  std::unique_ptr<Oracle> oracle_;
  std::unique_ptr<Site> site_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Zombie> zombies_;
  Node* victim_ = nullptr;  // of the crash that is being waited for
  u64 victim_steps_ = 0;
  u64 victim_effects_ = 0;
  bool crash_now_ = false;
  u32 next_id_ = 1;
  u32 host_ = 0;
  bool clean_ = true;  // the last owner closed
  Weather weather_;
  DbOptions options_;
  u64 lives_ = 0;
};

}  // namespace zerofs::sim
