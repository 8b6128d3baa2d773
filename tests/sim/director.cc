#include "tests/sim/director.h"

#include <algorithm>

#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {
Coverage& coverage() {
  return report().coverage;
}
}  // namespace

Director::Director(World& world) : stage_(world), world_(world), rng_(world.rng().fork()) {
  stage_.tender = this;
}

// ---- chance

void Director::draw_weather() {
  Weather& w = weather_;
  w.latency = rng_.pick<Duration>({500us, 5ms, 20ms, 60ms});
  stage_.site().calm = rng_.chance(6);
  if (stage_.site().calm) return;
  const u32 scale = rng_.pick<u32>({1, 4, 12});
  const auto some = [&](u32 most) {
    return rng_.chance(3) ? 0 : static_cast<u32>(rng_.below(most * scale + 1));
  };
  w.fail_before = some(8);
  w.lose_reply = some(10);
  w.apply_late = some(6);
  w.deliver_twice = some(8);
  w.conflict_409 = some(6);
  w.slow_down_503 = some(4);
  w.stall = some(3);
  w.flip_bit = rng_.chance(8) ? 2 : 0;
  // With flips the replies that are looked at after a lost one matter most.
  if (w.flip_bit != 0) w.deliver_twice += 60;
  w.deadline = rng_.pick<Duration>({2s, 8s, 30s});
}

DbOptions Director::draw_options() {
  DbOptions options;
  options.memory_bytes = rng_.pick<u64>({2, 2, 3, 4}) * kMiB;
  options.uploads_max = static_cast<u32>(rng_.pick<u64>({1, 2, 4, 8, 8, 8}));
  options.batch_age = rng_.pick<Duration>({50ms, 500ms, 5s});
  options.flush_spacing = rng_.pick<Duration>({0ms, 3ms, 40ms});
  options.flush_puts_per_second = rng_.pick<double>({0.5, 5, 20, 1000});
  options.flush_puts_burst = rng_.pick<double>({2, 10, 1e6, 1e6});
  options.memtable_objects_max = rng_.pick<u64>({3, 8, 24, 4096});
  options.table_bytes_max = rng_.pick<u64>({48 * kKiB, 64 * kMiB});
  // So small that there are several levels, or only one.
  options.level_bytes_base = rng_.pick<u64>({40, 200, kKiB, 64 * kMiB});
  return options;
}

Director::Play Director::draw_play() {
  Play play;
  const u64 dice = rng_.below(100);
  play.ending = dice < 42   ? Ending::crash_step
                : dice < 70 ? Ending::crash_effect
                : dice < 76 ? Ending::close
                : dice < 82 ? Ending::close_abruptly
                : dice < 94 ? Ending::freeze
                            : Ending::partition;
  // Opening takes some hundred steps; most crashes should come later.
  play.steps = u64{1} << rng_.between(3, 11);
  play.steps += rng_.below(play.steps);
  play.effects = rng_.between(1, u64{1} << rng_.between(0, 5));
  play.serve = Duration(static_cast<i64>(rng_.between(1, 3000)) * 1'000'000);
  play.race = rng_.chance(8);
  play.outage = !stage_.site().calm && rng_.chance(12);
  return play;
}

// ---- zombies

bool Director::is_zombie(const Node& node) const {
  return std::ranges::any_of(zombies_, [&](const Zombie& z) { return z.node == &node; });
}

void Director::tend() {
  for (Zombie& zombie : zombies_) {
    if (zombie.resumed || world_.now() < zombie.resume_at) continue;
    zombie.resumed = true;
    zombie.node->process().frozen = false;
    std::erase(stage_.store().partitioned, &zombie.node->process());
    ++coverage().zombies_resumed;
    if (world_.tracing()) {
      world_.trace(fmt::format("process {} wakes up", zombie.node->process().id()));
    }
  }
  std::erase_if(zombies_, [&](const Zombie& zombie) {
    if (world_.now() < zombie.kill_at) return false;
    zombie.node->crash();
    return true;
  });
}

// ---- lives

Node& Director::launch(bool takeover, u32 host) {
  Node::Options options;
  options.host = host;
  options.takeover = takeover;
  options.database = options_;
  options.block_clients = static_cast<u32>(rng_.between(1, 3));
  options.meta_client = !rng_.chance(4);
  options.verify_all = rng_.chance(16);
  options.sweeps_permille = sweeps_permille_;
  options.think = rng_.pick<Duration>({1ms, 10ms, 40ms});
  return stage_.launch(std::move(options));
}

void Director::launch_rival(Node& first) {
  ++coverage().races;
  for (u64 pause = rng_.below(rng_.pick<u64>({1, 40, 400})); pause != 0 && !first.gone(); --pause) {
    bool stepped = false;
    if (!stage_.run_until([&] { return std::exchange(stepped, true); }, kOpeningMax)) break;
  }
  launch(true, ++host_);
}

// Runs until everybody who is opening has succeeded or failed.
void Director::open() {
  const auto opened = [&] {
    return std::ranges::all_of(stage_.nodes(), [](const auto& n) {
      return n->process().frozen || n->gone() || n->state() != Node::State::opening;
    });
  };
  if (stage_.run_until(opened, kOpeningMax)) return;
  // Bad weather can last; with a good store it must open.
  stage_.store().weather = {.latency = weather_.latency};
  if (!stage_.run_until(opened, kOpeningMax)) world_.fail("a database does not open");
  stage_.store().weather = weather_;
}

Node* Director::serving_node() {
  for (const auto& node : stage_.nodes()) {
    if (!is_zombie(*node) && node->serving() && !node->fenced()) return node.get();
  }
  return nullptr;
}

void Director::live(const Play& play) {
  // Elsewhere, or here again; whoever cannot know whether the old owner lives may be refused.
  const bool move = rng_.chance(3) || !zombies_.empty();
  if (move) ++host_;
  if (move && !clean_) ++coverage().takeovers;
  const bool takeover = !clean_ && (move || rng_.chance(4)) && !rng_.chance(6);
  Node& first = launch(takeover, host_);
  clean_ = false;
  if (play.ending == Ending::crash_step) stage_.doom(first, play.steps, 0);
  if (play.ending == Ending::crash_effect) stage_.doom(first, 0, play.effects);
  if (play.race) launch_rival(first);
  open();
  Node* const node = serving_node();
  if (node == nullptr) return;
  if (play.outage) {
    ++coverage().outages;
    stage_.store().out = true;
    stage_.run_until([&] { return node->gone(); }, Duration(rng_.below(240'000'000'000)));
    stage_.store().out = false;
  }
  stage_.run_until([&] { return node->gone() || node->fenced(); },
                   stage_.doomed() ? play.serve * 2 : play.serve);
  if (node->serving()) end(*node, play.ending);
}

void Director::end(Node& node, Ending ending) {
  switch (ending) {
    case Ending::crash_step:
    case Ending::crash_effect: return;
    case Ending::close:
    case Ending::close_abruptly: {
      node.begin_close(ending == Ending::close_abruptly);
      const auto closed = [&] { return node.gone() || node.state() == Node::State::closed; };
      if (!stage_.run_until(closed, kHangMax) && !node.fenced()) {
        world_.fail("a close does not end although the store is there");
      }
      clean_ = node.state() == Node::State::closed && node.history().closed_well;
      return;
    }
    case Ending::freeze:
    case Ending::partition: {
      if (ending == Ending::freeze) {
        node.process().frozen = true;
      } else {
        stage_.store().partitioned.push_back(&node.process());
      }
      const Instant resume = world_.now() + Duration(rng_.below(3'000'000'000));
      zombies_.push_back({&node, resume, resume + Duration(rng_.below(20'000'000'000))});
      return;
    }
  }
}

// Whoever is no zombie dies now, if it still lives.
void Director::bury_all() {
  stage_.spare();
  for (std::size_t i = stage_.nodes().size(); i-- > 0;) {
    Node& node = *stage_.nodes()[i];
    if (is_zombie(node)) continue;
    stage_.site().dead_pids.insert(node.process().id());
    stage_.bury(node);
  }
}

void Director::run() {
  ++coverage().worlds;
  draw_weather();
  options_ = draw_options();
  sweeps_permille_ = rng_.pick<u32>({3, 3, 3, 60});
  stage_.create_database();
  const Instant begin = world_.now();
  stage_.store().weather = weather_;
  for (u64 lives = rng_.between(6, 30); lives != 0; --lives) {
    if (rng_.chance(6)) options_ = draw_options();
    live(draw_play());
    bury_all();
  }
  finish();
  coverage().virtual_seconds += static_cast<u64>(
      std::chrono::duration_cast<std::chrono::seconds>(world_.now() - begin).count());
  const StoreTally& tally = stage_.store().tally();
  coverage().requests += tally.requests;
  coverage().flips_met += tally.flips;
  coverage().faults += tally.lost_replies + tally.late_effects + tally.delivered_twice +
                       tally.conflicts + tally.outage_failures;
}

// Good weather: everything must be there, close cleanly, and be there again.
void Director::finish() {
  stage_.store().weather = {.latency = 1ms};
  Model truth;
  for (u32 round = 0; round < 2; ++round) {
    Node::Options options;
    options.host = ++host_;
    options.takeover = round == 0;
    options.database = options_;
    options.verify_all = true;
    Node& node = stage_.launch(std::move(options));
    const auto opened = [&] { return node.state() != Node::State::opening; };
    if (!stage_.run_until(opened, kOpeningMax) || !node.serving()) {
      world_.fail("the database does not open in good weather");
    }
    zombies_.clear();
    while (stage_.nodes().size() > 1) stage_.bury(*stage_.nodes().front());
    stage_.store().partitioned.clear();
    stage_.run_until([] { return false; }, 300ms);
    node.begin_close(false);
    const auto closed = [&] { return node.state() == Node::State::closed; };
    if (!stage_.run_until(closed, kHangMax)) {
      world_.fail("the database does not close in good weather");
    }
    if (!node.history().closed_well) world_.fail("a close in good weather failed");
    truth = node.live();
    stage_.bury(node);
  }
  stage_.oracle().audit();
  if (rng_.chance(4)) damage(truth);
}

// P4: the store changes objects. What is read must be right, or an error.
void Director::damage(const Model& truth) {
  const auto untouched = stage_.store().objects();
  for (u32 i = 0; i < 3; ++i) {
    ++coverage().damages;
    damage_one();
    Node::Options options;
    options.host = ++host_;
    options.database = options_;
    options.verify_all = true;
    options.damaged = &truth;
    Node& node = stage_.launch(std::move(options));
    const auto opened = [&] { return node.state() != Node::State::opening; };
    if (!stage_.run_until(opened, kOpeningMax)) world_.fail("a damaged database hangs");
    stage_.bury(node);
    stage_.store().objects_for_damage() = untouched;
  }
}

void Director::damage_one() {
  auto& objects = stage_.store().objects_for_damage();
  const auto some = [&] {
    return std::next(objects.begin(), static_cast<i64>(rng_.below(objects.size())));
  };
  const auto victim = some();
  Buffer body = Buffer::copy_of(*victim->second);
  switch (rng_.below(4)) {
    case 0: body.resize(rng_.below(body.size())); break;
    case 1: body = Buffer::copy_of(*some()->second); break;
    default: {
      // Mostly near the end, where footers, indexes and trailers lie.
      const u64 span = rng_.chance(2) ? std::min<u64>(body.size(), 300) : body.size();
      const u64 bit = (body.size() - span) * 8 + rng_.below(span * 8);
      body.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
  }
  if (world_.tracing()) world_.trace("damaged: " + victim->first);
  victim->second = std::make_shared<const Buffer>(std::move(body));
}

}  // namespace zerofs::sim
