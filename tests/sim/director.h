// Writes and performs the play of one seed: weather, lives of database instances one after the
// other and beside each other, how each of them ends.
#pragma once

#include "tests/sim/stage.h"

namespace zerofs::sim {

class Director : Stage::Tender {
 public:
  explicit Director(World& world);
  void run();

 private:
  enum class Ending : u8 { crash_step, crash_effect, close, close_abruptly, freeze, partition };
  struct Play {
    Ending ending = Ending::crash_step;
    u64 steps = 0;      // until the crash
    u64 effects = 0;    // creates until the crash
    Duration serve{};   // before it ends otherwise
    bool race = false;  // another opener at the same time
    bool outage = false;
  };
  struct Zombie {
    Node* node;
    Instant resume_at;
    Instant kill_at;
    bool resumed = false;
  };

  void draw_weather();
  DbOptions draw_options();
  Play draw_play();
  Node& launch(bool takeover, u32 host);
  void launch_rival(Node& first);
  void live(const Play& play);
  void open();
  Node* serving_node();
  void end(Node& node, Ending ending);
  void bury_all();
  void finish();
  void damage(const Model& truth);
  void damage_one();
  void tend() override;  // zombies
  bool is_zombie(const Node& node) const;

  Stage stage_;
  World& world_;
  Rng rng_;
  std::vector<Zombie> zombies_;
  u32 host_ = 0;
  bool clean_ = true;  // the last owner closed
  Weather weather_;
  DbOptions options_;
  u32 sweeps_permille_ = 0;
};

}  // namespace zerofs::sim
