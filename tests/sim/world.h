// The simulated machine room: one thread, virtual time, processes that are scheduled by a seed.
//
// A Process is what one database instance lives on: the engine's Executor, Clock and Random. What
// it has to run lies in its own queue, ordered by virtual time and then by chance, so coroutines
// that are ready together run in any order, jobs take any time, and their ends arrive in any
// order. The World always takes the earliest item of all processes and of the store.
//
// A process can be frozen (it does not run while the store goes on answering it) and cut off: from
// then on only `run_post_mortem` runs it, on a clock of its own, so that its coroutines can end.
// Nothing that happens then touches the world, its chance or its trace.
#pragma once

#include <optional>
#include <queue>
#include <string>
#include <vector>

#include "tests/sim/rng.h"

namespace zerofs::sim {

class SimStore;
class World;

class Process final : public Executor, public Clock, public Random {
 public:
  Process(World& world, u32 id, Rng rng);
  ~Process() override;

  // ---- the engine's seams
  void post(std::coroutine_handle<> handle) override;
  void submit(Job& job, Priority priority) override;
  void arm(Timer& timer, Instant deadline) override;
  void disarm(Timer& timer) override;
  Instant now() override { return now_; }
  WallTime wall() override { return WallTime(now_.time_since_epoch()); }
  void fill(MutableBytes out) override;

  // ---- for the world
  u32 id() const { return id_; }
  Runtime runtime() { return {*this, *this, *this}; }
  bool frozen = false;
  bool cut = false;
  // When it next has something to do, if ever.
  std::optional<Instant> next_at();
  void step(Instant now);
  // After `cut`: runs what is left, at most `steps_max` steps; false when nothing is left.
  bool run_post_mortem();
  u64 steps() const { return steps_; }

 private:
  struct Item {
    enum class Kind : u8 { resume, run, finish, timer } kind;
    Instant at;
    u64 tie;
    void* what;  // coroutine address, Job, or the timer's slot
    u32 generation;
    friend bool operator<(const Item& a, const Item& b) {  // the heap's top is the greatest
      return a.at != b.at ? a.at > b.at : a.tie > b.tie;
    }
  };
  struct Slot {
    Timer* timer = nullptr;
    u32 generation = 0;
  };
  void push(Item::Kind kind, Instant at, void* what, u32 generation = 0);
  bool is_stale(const Item& item) const;
  void run(const Item& item);

  World& world_;
  u32 id_;
  Rng order_;    // of what is ready together, of durations
  Rng entropy_;  // what the engine draws
  Instant now_;
  u64 steps_ = 0;
  std::priority_queue<Item> items_;
  std::vector<Slot> slots_;
  std::vector<u32> free_slots_;
};

class World {
 public:
  World(u64 seed, bool tracing);
  ~World();

  // Runs the earliest item; false when nothing is left to run.
  bool step();
  Instant now() const { return now_; }
  Rng& rng() { return rng_; }
  SimStore& store() { return *store_; }

  void add(Process& process) { processes_.push_back(&process); }
  void remove(Process& process) { std::erase(processes_, &process); }

  // ---- the trace: what happened, as a hash and, when asked for, as text
  void note(u64 what) { hash_ = mix(hash_ ^ what); }
  u64 hash() const { return hash_; }
  bool tracing() const { return tracing_; }
  void trace(std::string line);  // call only if tracing()
  // The promise that was broken. Ends this (child) process: a failed world is never tidied up.
  [[noreturn]] void fail(const std::string& why);

  u64 seed() const { return seed_; }
  u64 steps() const { return steps_; }

 private:
  u64 seed_;
  bool tracing_;
  Rng rng_;
  Instant now_;
  u64 hash_ = 1;
  u64 steps_ = 0;
  std::vector<Process*> processes_;
  std::unique_ptr<SimStore> store_;
};

}  // namespace zerofs::sim
