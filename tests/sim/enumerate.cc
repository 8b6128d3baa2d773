#include "tests/sim/enumerate.h"

#include <cstdio>

#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {

Node::Options options(u32 host, bool takeover) {
  Node::Options out;
  out.host = host;
  out.takeover = takeover;
  out.verify_all = true;
  out.script = true;
  out.database.memory_bytes = 2 * kMiB;
  out.database.memtable_objects_max = 3;
  out.database.batch_age = 30ms;
  return out;
}

// Opens and lets the script run; false when it crashed (or froze) on the way.
bool perform_life(Stage& stage, Node& node) {
  const auto stopped = [&] { return node.gone() || node.process().frozen; };
  const auto opened = [&] { return stopped() || node.state() != Node::State::opening; };
  if (!stage.run_until(opened, kOpeningMax)) stage.world().fail("the database does not open");
  if (stopped()) return false;
  if (!node.serving()) stage.world().fail("the database refuses to open");
  stage.run_until([&] { return stopped() || node.script_ended || node.fenced(); }, kHangMax);
  if (stopped()) return false;
  node.begin_close(false);
  const auto closed = [&] { return stopped() || node.state() == Node::State::closed; };
  if (!stage.run_until(closed, kHangMax)) stage.world().fail("the database does not close");
  return !stopped();
}

}  // namespace

std::string CrashPoint::text() const {
  return fmt::format("{}:{}:{}:{}", seed, effects, elsewhere ? "elsewhere" : "here", effects_again);
}

std::optional<CrashPoint> CrashPoint::parse(std::string_view text) {
  char where[16] = {};
  unsigned long seed = 0;
  unsigned long effects = 0;
  unsigned long again = 0;
  if (std::sscanf(std::string(text).c_str(), "%lu:%lu:%15[a-z]:%lu", &seed, &effects, where,
                  &again) != 4) {
    return {};
  }
  return CrashPoint{seed, effects, std::string_view(where) == "elsewhere", again};
}

bool perform(const CrashPoint& point, bool tracing) {
  ++report().coverage.worlds;
  report().seed = point.seed;
  point.text().copy(report().point, sizeof report().point - 1);
  report().point[point.text().size()] = '\0';
  World world(point.seed, tracing);
  Stage stage(world);
  stage.site().calm = true;
  stage.create_database();
  stage.store().weather = {.latency = 4ms};

  Node& writer = stage.launch(options(1, false));
  stage.doom(writer, 0, point.effects);
  stage.freeze_instead = point.elsewhere;
  const bool reached = !perform_life(stage, writer);
  const u32 host = point.elsewhere ? 2 : 1;
  stage.freeze_instead = false;
  bool reached_again = true;
  if (point.effects_again != 0) {
    Node& opener = stage.launch(options(host, point.elsewhere));
    stage.doom(opener, 0, point.effects_again);
    reached_again = !perform_life(stage, opener);
    stage.site().dead_pids.insert(opener.process().id());
  }
  Node& next = stage.launch(options(host, point.elsewhere));
  if (point.elsewhere) {
    // The old writer wakes up somewhere on the way.
    stage.run_until([&] { return false; }, Duration(world.rng().below(150'000'000)));
    writer.process().frozen = false;
  }
  if (!perform_life(stage, next)) world.fail("the last opener ended");
  if (!next.history().closed_well) world.fail("the last opener did not close well");
  Node& check = stage.launch(options(host, false));
  if (!perform_life(stage, check)) world.fail("the check ended");
  stage.oracle().audit();
  return reached && reached_again;
}

void perform_all(u64 seeds) {
  for (u64 seed = 1; seed <= seeds; ++seed) {
    for (const bool elsewhere : {false, true}) {
      for (u64 effects = 1; perform({seed, effects, elsewhere, 0}, false); ++effects) {
        // Opening takes some six effects: manifests, fences; what follows is the script's again.
        if (effects % 4 != seed % 4) continue;
        for (u64 again = 1; again <= 8; ++again) {
          if (!perform({seed, effects, elsewhere, again}, false)) break;
        }
      }
    }
  }
}

}  // namespace zerofs::sim
