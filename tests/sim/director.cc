#include "tests/sim/director.h"

#include <algorithm>

#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {

constexpr Duration kOpeningMax = std::chrono::hours(1);
constexpr Duration kHangMax = 45 * 60s;

Coverage& coverage() { return report().coverage; }

std::unique_ptr<format::DatabaseKeys> make_keys(Rng& rng) {
  format::Key key{};
  format::DatabaseId id{};
  for (std::byte& b : key) b = static_cast<std::byte>(rng.next());
  for (std::byte& b : id) b = static_cast<std::byte>(rng.next());
  return std::make_unique<format::DatabaseKeys>(key, id);
}

}  // namespace

Director::Director(World& world)
    : world_(world),
      rng_(world.rng().fork()),
      keys_(make_keys(rng_)),
      oracle_(std::make_unique<Oracle>(world, *keys_)),
      site_(std::make_unique<Site>(Site{.world = world, .oracle = *oracle_, .keys = *keys_})) {
  world_.store().watcher = this;
}

Director::~Director() {
  for (const auto& node : nodes_) node->crash();
}

// ---- chance

void Director::draw_weather() {
  Weather& w = weather_;
  w.latency = rng_.pick<Duration>({500us, 5ms, 20ms, 60ms});
  site_->calm = rng_.chance(6);
  if (site_->calm) return;
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
  w.deadline = rng_.pick<Duration>({2s, 8s, 30s});
}

DbOptions Director::draw_options() {
  DbOptions options;
  options.memory_bytes = rng_.pick<u64>({2, 3, 4, 6}) * kMiB;
  options.uploads_max = static_cast<u32>(rng_.pick<u64>({1, 2, 4, 8, 8, 8}));
  options.batch_age = rng_.pick<Duration>({50ms, 500ms, 5s});
  options.flush_spacing = rng_.pick<Duration>({0ms, 3ms, 40ms});
  options.flush_puts_per_second = rng_.pick<double>({0.5, 5, 20, 1000});
  options.flush_puts_burst = rng_.pick<double>({2, 10, 1e6, 1e6});
  options.memtable_objects_max = rng_.pick<u64>({3, 8, 24, 4096});
  options.table_bytes_max = rng_.pick<u64>({48 * kKiB, 64 * kMiB});
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
  play.steps = u64{1} << rng_.between(3, 12);
  play.steps += rng_.below(play.steps);
  play.effects = rng_.between(1, u64{1} << rng_.between(0, 5));
  play.serve = Duration(static_cast<i64>(rng_.between(1, 3000)) * 1'000'000);
  play.race = rng_.chance(12);
  play.outage = !site_->calm && rng_.chance(12);
  return play;
}

// ---- running

void Director::create_applied(const Process* from, const std::string& name) {
  if (name.starts_with("sst/")) ++coverage().memtable_flushes;
  if (name.starts_with(format::kManifestPrefix)) {
    for (const auto& node : nodes_) {
      if (&node->process() == from) node->manifest_applied(name);
    }
  }
  if (victim_ == nullptr || victim_effects_ == 0 || from != &victim_->process()) return;
  if (--victim_effects_ == 0) crash_now_ = true;
}

template <class Done>
bool Director::run_until(Done done, Duration limit) {
  const Instant end = world_.now() + limit;
  while (!done()) {
    if (world_.now() > end || !world_.step()) return false;
    if (victim_ != nullptr && victim_steps_ != 0 && --victim_steps_ == 0) crash_now_ = true;
    if (crash_now_) {
      crash_now_ = false;
      Node& victim = *std::exchange(victim_, nullptr);
      site_->dead_pids.insert(victim.process().id());
      victim.crash();
    }
    if (world_.steps() % 256 == 0) watch_for_hangs();
    if (!zombies_.empty()) tend_zombies();
  }
  return true;
}

void Director::watch_for_hangs() {
  for (const auto& node : nodes_) {
    if (!node->serving() || node->process().frozen) continue;
    node->check_limits();
    if (node->running.empty() || world_.store().out) continue;
    if (!world_.store().partitioned.empty()) continue;
    const Duration waits = world_.now() - node->running.begin()->first;
    if (waits > kHangMax) world_.fail("an operation waits for ever although the store is there");
  }
}

void Director::tend_zombies() {
  for (Zombie& zombie : zombies_) {
    if (!zombie.resumed && world_.now() >= zombie.resume_at) {
      zombie.resumed = true;
      zombie.node->process().frozen = false;
      std::erase(world_.store().partitioned, &zombie.node->process());
      ++coverage().zombies_resumed;
      if (world_.tracing()) {
        world_.trace(fmt::format("process {} wakes up", zombie.node->process().id()));
      }
    }
  }
  std::erase_if(zombies_, [&](const Zombie& zombie) {
    if (world_.now() < zombie.kill_at) return false;
    zombie.node->crash();
    return true;
  });
}

Node& Director::launch(bool takeover, u32 host) {
  Node::Options options;
  options.host = host;
  options.takeover = takeover;
  options.database = options_;
  options.block_clients = static_cast<u32>(rng_.between(1, 3));
  options.meta_client = !rng_.chance(4);
  options.verify_all = rng_.chance(10);
  options.think = rng_.pick<Duration>({1ms, 10ms, 40ms});
  nodes_.push_back(std::make_unique<Node>(*site_, next_id_++, std::move(options)));
  Node& node = *nodes_.back();
  if (world_.tracing()) {
    world_.trace(fmt::format("process {} starts on host {}{}", node.process().id(), host,
                             takeover ? ", takes over" : ""));
  }
  node.start();
  return node;
}

void Director::bury(Node& node) {
  node.crash();
  std::erase_if(zombies_, [&](const Zombie& zombie) { return zombie.node == &node; });
  if (victim_ == &node) victim_ = nullptr;
  std::erase_if(nodes_, [&](const auto& held) { return held.get() == &node; });
}

// ---- a run

void Director::create_database() {
  Process process(world_, 0, world_.rng().fork());
  StoreView view(world_.store(), process);
  std::optional<Result<>> created;
  struct Run {
    static Task<> create(Runtime runtime, StoreView& view, const format::DatabaseKeys& keys,
                         std::vector<ObjectId>& objects, std::optional<Result<>>& created) {
      created.emplace(co_await as_result(Db::create(runtime, view, keys)));
      static_cast<void>(objects);
      co_return {};
    }
  };
  Gate gate(process);
  gate.spawn(Run::create(process.runtime(), view, *keys_, site_->objects, created));
  while (!created && world_.step()) {
  }
  INVARIANT(created && created->has_value());
  process.cut = true;
  world_.store().cut_off(process);
  while (process.run_post_mortem()) {
  }
  // The objects of the block clients: ids as a first server would have given them out.
  for (u64 i = 1; i <= 3; ++i) {
    site_->objects.push_back(ObjectId{u64{0x00fff0} << 40 | i});
    oracle_->new_object(site_->objects.back());
  }
}

void Director::live(const Play& play) {
  // Elsewhere, or here again; without an answer whether the old owner lives it may be refused.
  const bool move = rng_.chance(3) || !zombies_.empty();
  if (move) ++host_;
  if (move && !clean_) ++coverage().takeovers;
  const bool takeover = !clean_ && (move || rng_.chance(4)) && !rng_.chance(6);
  Node* node = &launch(takeover, host_);
  clean_ = false;
  crash_now_ = false;
  if (play.ending == Ending::crash_step || play.ending == Ending::crash_effect) {
    victim_ = node;
    victim_steps_ = play.ending == Ending::crash_step ? play.steps : 0;
    victim_effects_ = play.ending == Ending::crash_effect ? play.effects : 0;
  }
  if (play.race) {
    ++coverage().races;
    const u64 pause = rng_.below(400);
    for (u64 i = 0; i < pause && !node->gone(); ++i) {
      if (!run_until([&, left = 1]() mutable { return left-- == 0; }, kOpeningMax)) break;
    }
    launch(true, ++host_);
  }
  const auto opened = [](const Node& n) { return n.gone() || n.state() != Node::State::opening; };
  const auto all_opened = [&] {
    return std::ranges::all_of(nodes_, [&](const auto& n) {
      return n->process().frozen || opened(*n);
    });
  };
  if (!run_until(all_opened, kOpeningMax)) {
    // Bad weather can last; with a good store it must open.
    world_.store().weather = {.latency = weather_.latency};
    if (!run_until(all_opened, kOpeningMax)) world_.fail("a database does not open");
    world_.store().weather = weather_;
  }
  const auto first_serving = [&]() -> Node* {
    for (const auto& n : nodes_) {
      const bool zombie = std::ranges::any_of(
          zombies_, [&](const Zombie& z) { return z.node == n.get(); });
      if (!zombie && n->serving() && !n->fenced()) node = n.get();
    }
    return node;
  };
  node = first_serving();
  if (play.outage) {
    ++coverage().outages;
    world_.store().out = true;
    run_until([&] { return node->gone(); }, Duration(rng_.below(240'000'000'000)));
    world_.store().out = false;
  }
  const bool waits_for_crash = victim_ != nullptr && !victim_->gone();
  run_until([&] { return node->gone() || node->fenced(); },
            waits_for_crash ? play.serve * 4 : play.serve);
  if (node->gone() || !node->serving()) return;

  switch (play.ending) {
    case Ending::crash_step:
    case Ending::crash_effect: return;
    case Ending::close:
    case Ending::close_abruptly: {
      node->begin_close(play.ending == Ending::close_abruptly);
      const bool ended =
          run_until([&] { return node->gone() || node->state() == Node::State::closed; }, kHangMax);
      if (!ended && !node->fenced()) world_.fail("a close does not end although the store is there");
      clean_ = node->state() == Node::State::closed && node->history().closed_well;
      return;
    }
    case Ending::freeze:
    case Ending::partition: {
      if (play.ending == Ending::freeze) {
        node->process().frozen = true;
      } else {
        world_.store().partitioned.push_back(&node->process());
      }
      const Instant resume = world_.now() + Duration(rng_.below(3'000'000'000));
      zombies_.push_back({node, resume, resume + Duration(rng_.below(20'000'000'000))});
      return;
    }
  }
}

void Director::run() {
  ++coverage().worlds;
  draw_weather();
  options_ = draw_options();
  create_database();
  const Instant begin = world_.now();
  world_.store().weather = weather_;
  for (lives_ = rng_.between(6, 30); lives_ != 0; --lives_) {
    if (rng_.chance(6)) options_ = draw_options();
    live(draw_play());
    // What is no zombie is gone now.
    victim_ = nullptr;
    for (std::size_t i = nodes_.size(); i-- > 0;) {
      Node& node = *nodes_[i];
      const bool zombie = std::ranges::any_of(
          zombies_, [&](const Zombie& z) { return z.node == &node; });
      if (zombie && !node.gone()) continue;
      if (!node.gone() && node.state() != Node::State::closed) clean_ = false;
      site_->dead_pids.insert(node.process().id());
      bury(node);
    }
  }
  finish();
  coverage().virtual_seconds += static_cast<u64>(
      std::chrono::duration_cast<std::chrono::seconds>(world_.now() - begin).count());
  const StoreTally& tally = world_.store().tally();
  coverage().requests += tally.requests;
  coverage().flips_met += tally.flips;
  coverage().faults += tally.lost_replies + tally.late_effects + tally.delivered_twice +
                       tally.conflicts + tally.outage_failures;
}

// Good weather: everything must be there, close cleanly, and be there again.
void Director::finish() {
  world_.store().weather = {.latency = 1ms};
  world_.store().partitioned.clear();
  for (const auto& node : nodes_) node->process().frozen = false;
  options_.owner_is_gone = {};
  for (u32 round = 0; round < 2; ++round) {
    Node& node = launch(round == 0, ++host_);
    const auto opened = [&] { return node.state() != Node::State::opening; };
    if (!run_until(opened, kOpeningMax) || !node.serving()) {
      world_.fail("the database does not open in good weather");
    }
    while (nodes_.size() > 1) bury(*nodes_.front());
    run_until([] { return false; }, 300ms);
    node.begin_close(false);
    const auto closed = [&] { return node.state() == Node::State::closed; };
    if (!run_until(closed, kHangMax)) world_.fail("the database does not close in good weather");
    if (!node.history().closed_well) world_.fail("a close in good weather failed");
    bury(node);
  }
  oracle_->audit();
}

}  // namespace zerofs::sim
