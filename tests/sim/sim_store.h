// The simulated object store, stricter than S3 (engine/store/object_store.h is its contract).
//
// Each request is decided when it is issued, by seed and weather: when it takes effect, if at all,
// and what its caller hears and when. So a request may fail before its effect, take effect and lose
// the reply, take effect minutes after the caller gave up, arrive twice (the second one is
// answered), be answered 409 or 503, stall, or hand over damaged bytes. A process that is cut off
// hears nothing more; what it had in flight is lost or still arrives, late.
//
// The store is also a witness: it knows what each name was ever offered, so a number that is
// sealed twice with different bytes is caught here (nonces would repeat).
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/store/object_store.h"
#include "tests/sim/world.h"

namespace zerofs::sim {

// How badly the network behaves; shares of a thousand requests.
struct Weather {
  u32 fail_before = 0;
  u32 lose_reply = 0;
  u32 apply_late = 0;
  u32 deliver_twice = 0;
  u32 conflict_409 = 0;  // also what the store says, at times, of a name that exists
  u32 slow_down_503 = 0;
  u32 stall = 0;
  u32 flip_bit = 0;  // of reads
  Duration latency = 10ms;
  Duration deadline = 8s;       // after which the caller hears `retry`
  Duration late_max = 4 * 60s;  // of effects that come after that
};

struct StoreTally {
  u64 requests = 0;
  u64 effects = 0;
  u64 lost_replies = 0;
  u64 late_effects = 0;
  u64 delivered_twice = 0;
  u64 conflicts = 0;
  u64 flips = 0;
  u64 outage_failures = 0;
};

class SimStore {
 public:
  using Body = std::shared_ptr<const Buffer>;
  enum class Kind : u8 { create, read, read_suffix, remove, list };

  // Where the answer goes; lives in the caller's coroutine.
  struct Reply {
    std::coroutine_handle<> waiting;
    std::optional<Error> error;
    u64 object_bytes = 0;
    Buffer bytes;
    std::vector<std::string> names;
  };
  struct Request {
    Kind kind{};
    Process* from = nullptr;
    Reply* reply = nullptr;  // null once nobody waits
    std::string name;
    Body body;  // create: what; reads: what was found
    u64 offset = 0;
    u64 bytes_max = 0;
    MutableBytes out;
    std::string after;
    u32 count_max = 0;
    bool applies = true;          // false: the effect never happens
    bool answer_now = true;       // the reply carries the effect's own result…
    std::optional<Error> answer;  // …else this
    bool says_409 = false;
    bool flips = false;
    bool twice = false;
    std::optional<Error> result;  // of the effect
    bool applied = false;
    bool orphan = false;  // its process was cut off
    std::vector<std::string> names;
  };

  SimStore(World& world, Rng rng) : world_(world), rng_(rng) {}

  // ---- for the world
  std::optional<Instant> next_at() const;
  void step();

  // ---- for the views
  void issue(std::shared_ptr<Request> request);
  // Nobody hears answers to this process any more; what waits is resumed with `cancelled`.
  void cut_off(Process& process);

  // ---- for the director and the oracle
  Weather weather;
  bool out = false;                         // a whole-store outage
  std::vector<const Process*> partitioned;  // these alone cannot reach it
  const std::map<std::string, Body>& objects() const { return objects_; }
  // Names may then be sealed again: the world goes back to before they were.
  std::map<std::string, Body>& objects_for_damage() {
    offered_.clear();
    return objects_;
  }
  bool contains(const std::string& name) const { return objects_.contains(name); }
  const StoreTally& tally() const { return tally_; }
  u64 creates_applied() const { return creates_applied_; }
  // Called after each create that took effect, with the process it came from.
  struct Watcher {
    virtual ~Watcher() = default;
    virtual void create_applied(const Process* from, const std::string& name) = 0;
  };
  Watcher* watcher = nullptr;

 private:
  struct Event {
    Instant at;
    u64 tie;
    bool is_answer;
    std::shared_ptr<Request> request;
    friend bool operator<(const Event& a, const Event& b) {
      return a.at != b.at ? a.at > b.at : a.tie > b.tie;
    }
  };
  void schedule(Instant at, bool is_answer, const std::shared_ptr<Request>& request);
  void decide(const std::shared_ptr<Request>& request);
  bool unreachable(const Process* from) const;
  void witness(const Request& request);
  void apply(Request& request);
  void apply_create(Request& request);
  void answer(Request& request);

  World& world_;
  Rng rng_;
  std::map<std::string, Body> objects_;
  std::vector<Event> events_;  // a heap
  std::vector<std::shared_ptr<Request>> waiting_;
  std::unordered_map<std::string, std::pair<u64, u64>> offered_;  // name → hash, process
  StoreTally tally_;
  u64 creates_applied_ = 0;
};

// The store as one process sees it.
class StoreView final : public store::ObjectStore {
 public:
  StoreView(SimStore& store, Process& process) : store_(store), process_(process) {}

  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override;
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override;
  Task<> create(std::string name, Bytes body, store::Class klass) override;
  Task<> remove(std::string name) override;
  Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                      u32 count_max) override;

  u32 log_creates_in_flight() const { return log_creates_; }

 private:
  struct Call {
    SimStore& store;
    std::shared_ptr<SimStore::Request> request;
    SimStore::Reply& reply;
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> handle);
    void await_resume() const {}
  };
  std::shared_ptr<SimStore::Request> request(SimStore::Kind kind, std::string name);

  SimStore& store_;
  Process& process_;
  u32 log_creates_ = 0;
};

}  // namespace zerofs::sim
