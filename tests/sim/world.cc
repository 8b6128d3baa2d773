#include "tests/sim/world.h"

#include "tests/sim/report.h"
#include "tests/sim/sim_store.h"

namespace zerofs::sim {

namespace {
constexpr Instant kBegin{Duration(std::chrono::hours(24 * 365))};
}  // namespace

// ---- processes

Process::Process(World& world, u32 id, Rng rng)
    : world_(world), id_(id), order_(rng.fork()), entropy_(rng.fork()), now_(world.now()) {
  world_.add(*this);
}

Process::~Process() {
  world_.remove(*this);
}

void Process::push(Item::Kind kind, Instant at, void* what, u32 generation) {
  items_.push({kind, at, order_.next(), what, generation});
}

void Process::post(std::coroutine_handle<> handle) {
  // Mostly at once, among all that is ready; at times the thread is busy with something else.
  const Duration delay = order_.chance(24) ? Duration(order_.below(3'000'000)) : Duration(0);
  push(Item::Kind::resume, now_ + delay, handle.address());
}

void Process::submit(Job& job, Priority) {
  push(Item::Kind::run, now_ + order_.latency(200us), &job);
}

void Process::arm(Timer& timer, Instant deadline) {
  disarm(timer);
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<u32>(slots_.size()));
    slots_.emplace_back();
  }
  const u32 index = free_slots_.back();
  free_slots_.pop_back();
  slots_[index].timer = &timer;
  timer.slot = index + 1;
  timer.deadline = deadline;
  push(Item::Kind::timer, std::max(deadline, now_), reinterpret_cast<void*>(u64{index}),
       slots_[index].generation);
}

void Process::disarm(Timer& timer) {
  if (timer.slot == 0) return;
  const u32 index = static_cast<u32>(timer.slot - 1);
  slots_[index].timer = nullptr;
  ++slots_[index].generation;
  free_slots_.push_back(index);
  timer.slot = 0;
}

void Process::fill(MutableBytes out) {
  for (std::size_t at = 0; at < out.size(); at += 8) {
    const u64 word = entropy_.next();
    std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, out.size() - at));
  }
}

bool Process::is_stale(const Item& item) const {
  if (item.kind != Item::Kind::timer) return false;
  return slots_[reinterpret_cast<u64>(item.what)].generation != item.generation;
}

std::optional<Instant> Process::next_at() {
  while (!items_.empty() && is_stale(items_.top())) items_.pop();
  if (items_.empty()) return {};
  return items_.top().at;
}

void Process::run(const Item& item) {
  ++steps_;
  switch (item.kind) {
    case Item::Kind::resume: std::coroutine_handle<>::from_address(item.what).resume(); return;
    case Item::Kind::run: {
      Job& job = *static_cast<Job*>(item.what);
      job.run();
      push(Item::Kind::finish, now_ + order_.latency(50us), &job);
      return;
    }
    case Item::Kind::finish: static_cast<Job*>(item.what)->finish(); return;
    case Item::Kind::timer: {
      Timer& timer = *slots_[reinterpret_cast<u64>(item.what)].timer;
      disarm(timer);
      timer.fire();
      return;
    }
  }
}

void Process::step(Instant now) {
  const Item item = items_.top();
  items_.pop();
  now_ = now;
  world_.note(u64{id_} << 8 | static_cast<u64>(item.kind));
  run(item);
}

bool Process::run_post_mortem() {
  INVARIANT(cut);
  if (!next_at()) return false;
  const Item item = items_.top();
  items_.pop();
  now_ = std::max(now_, item.at);
  run(item);
  return true;
}

// ---- the world

World::World(u64 seed, bool tracing)
    : seed_(seed),
      tracing_(tracing),
      rng_(seed),
      now_(kBegin),
      store_(std::make_unique<SimStore>(*this, rng_.fork())) {}

World::~World() = default;

bool World::step() {
  Process* next = nullptr;
  std::optional<Instant> at = store_->next_at();
  for (Process* process : processes_) {
    if (process->frozen || process->cut) continue;
    const std::optional<Instant> here = process->next_at();
    if (here && (!at || *here < *at)) {
      at = here;
      next = process;
    }
  }
  if (!at) return false;
  now_ = std::max(now_, *at);
  ++steps_;
  note(static_cast<u64>(now_.time_since_epoch().count()));
  if (next != nullptr) {
    next->step(now_);
  } else {
    store_->step();
  }
  report().hash = hash_;
  return true;
}

void World::trace(std::string line) {
  const double seconds = std::chrono::duration<double>(now_ - kBegin).count();
  keep_trace_line(fmt::format("{:12.6f} {}", seconds, std::move(line)));
}

void World::fail(const std::string& why) {
  if (tracing_) trace("FAILED: " + why);
  fail_run(why);
}

}  // namespace zerofs::sim
