// Every crash point: the same script is stopped right after its first store effect, then in another
// world after its second, and so on to the last, and what is left is opened again: on the same
// machine, or elsewhere while the old writer sleeps and wakes up later. The opening itself is
// stopped after each of its effects as well. Several schedules of each.
#pragma once

#include "tests/sim/stage.h"

namespace zerofs::sim {

struct CrashPoint {
  u64 seed = 1;
  u64 effects = 1;  // of the writer
  bool elsewhere = false;
  u64 effects_again = 0;  // of the first who opens afterwards; 0: it is left alone

  std::string text() const;
  static std::optional<CrashPoint> parse(std::string_view text);
};

// Performs one; whether both crashes were reached.
bool perform(const CrashPoint& point, bool tracing);
// All of them. A failure ends the process.
void perform_all(u64 seeds);

}  // namespace zerofs::sim
