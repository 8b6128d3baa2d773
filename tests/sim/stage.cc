#include "tests/sim/stage.h"

#include <algorithm>

#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {

std::unique_ptr<format::DatabaseKeys> make_keys(Rng rng) {
  format::Key key{};
  format::DatabaseId id{};
  for (std::byte& b : key) b = static_cast<std::byte>(rng.next());
  for (std::byte& b : id) b = static_cast<std::byte>(rng.next());
  return std::make_unique<format::DatabaseKeys>(key, id);
}

Task<> create(Runtime runtime, StoreView& view, const format::DatabaseKeys& keys,
              std::optional<Result<>>& created) {
  created.emplace(co_await as_result(Db::create(runtime, view, keys)));
  co_return {};
}

}  // namespace

Stage::Stage(World& world)
    : world_(world),
      keys_(make_keys(world.rng().fork())),
      oracle_(std::make_unique<Oracle>(world, *keys_)),
      site_(std::make_unique<Site>(Site{.world = world, .oracle = *oracle_, .keys = *keys_})) {
  store().watcher = this;
}

Stage::~Stage() {
  for (const auto& node : nodes_) node->crash();
}

void Stage::create_database() {
  Process process(world_, 0, world_.rng().fork());
  StoreView view(store(), process);
  std::optional<Result<>> created;
  Gate gate(process);
  gate.spawn(create(process.runtime(), view, *keys_, created));
  while (!created && world_.step()) {
  }
  INVARIANT(created && created->has_value());
  process.cut = true;
  store().cut_off(process);
  while (process.run_post_mortem()) {
  }
  // The objects of the block clients, as some first server gave their ids out.
  for (u64 i = 1; i <= 4; ++i) {
    site_->objects.push_back(ObjectId{u64{0x00fff0} << 40 | i});
    oracle_->new_object(site_->objects.back());
  }
}

Node& Stage::launch(Node::Options options) {
  nodes_.push_back(std::make_unique<Node>(*site_, next_id_++, std::move(options)));
  Node& node = *nodes_.back();
  if (world_.tracing()) {
    world_.trace(fmt::format("process {} starts on host {}{}", node.process().id(),
                             node.options().host, node.options().takeover ? ", takes over" : ""));
  }
  node.start();
  return node;
}

void Stage::bury(Node& node) {
  node.crash();
  if (victim_ == &node) victim_ = nullptr;
  std::erase_if(nodes_, [&](const auto& held) { return held.get() == &node; });
}

void Stage::doom(Node& node, u64 steps, u64 effects) {
  victim_ = &node;
  victim_steps_ = steps;
  victim_effects_ = effects;
  crash_now_ = false;
}

void Stage::create_applied(const Process* from, const std::string& name) {
  if (name.starts_with("sst/")) ++report().coverage.memtable_flushes;
  if (name.starts_with(format::kManifestPrefix)) {
    for (const auto& node : nodes_) {
      if (&node->process() == from) node->manifest_applied(name);
    }
  }
  if (victim_ == nullptr || victim_effects_ == 0 || from != &victim_->process()) return;
  if (--victim_effects_ == 0) crash_now_ = true;
}

void Stage::after_step() {
  if (victim_ != nullptr && victim_steps_ != 0 && --victim_steps_ == 0) crash_now_ = true;
  if (crash_now_ && victim_ != nullptr) {
    Node& victim = *std::exchange(victim_, nullptr);
    if (freeze_instead) {
      victim.process().frozen = true;
    } else {
      site_->dead_pids.insert(victim.process().id());
      victim.crash();
    }
  }
  crash_now_ = false;
  if (world_.steps() % 256 == 0) watch_for_hangs();
  if (tender != nullptr) tender->tend();
}

void Stage::watch_for_hangs() {
  for (const auto& node : nodes_) {
    if (!node->serving() || node->process().frozen) continue;
    node->check_limits();
    if (node->running.empty() || store().out || !store().partitioned.empty()) continue;
    const Duration waits = world_.now() - node->running.begin()->first;
    if (waits > kHangMax) world_.fail("an operation waits for ever although the store is there");
  }
}

}  // namespace zerofs::sim
