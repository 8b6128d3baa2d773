// One database instance on one process: opens, checks what it finds, serves its clients, ends.
#pragma once

#include "engine/base/sync.h"
#include "tests/sim/oracle.h"

namespace zerofs::sim {

class Client;
class Director;

// What all instances of a run share.
struct Site {
  World& world;
  Oracle& oracle;
  const format::DatabaseKeys& keys;
  std::vector<ObjectId> objects;  // ever made for clients, in order
  std::set<u64> dead_pids;        // processes of a machine that an opener there knows to be gone
  bool calm = false;              // no faults: then no operation may fail
};

class Node {
 public:
  enum class State : u8 { opening, serving, refused, closing, closed };

  struct Options {
    u32 host = 0;
    bool takeover = false;  // open over an owner that may be alive
    DbOptions database;
    u32 block_clients = 2;
    bool meta_client = true;
    bool verify_all = false;
    Duration think = 20ms;
    u32 sweeps_permille = 0;  // of the block clients' operations
    // An object of the store was damaged: opening and reading may fail, but whatever is read must
    // be what this model says. No clients.
    const Model* damaged = nullptr;
    bool script = false;  // one client with Client::run_script, instead
  };

  Node(Site& site, u32 id, Options options);
  ~Node();

  void start();
  State state() const { return state_; }
  bool serving() const { return state_ == State::serving && !process_.cut; }
  bool gone() const { return process_.cut; }
  bool fenced() const { return db_ != nullptr && db_->fenced(); }

  void manifest_applied(const std::string& name);
  // Ends it as a power failure does, wherever its coroutines are.
  void crash();
  // Clients stop; then it closes, or (`abruptly`) closes under their feet.
  void begin_close(bool abruptly);

  Process& process() { return process_; }
  StoreView& view() { return view_; }
  const Options& options() const { return options_; }

  // ---- for its clients
  Site& site() { return site_; }
  Db& db() { return *db_; }
  Model& live() { return live_; }
  TermHistory& history() { return *history_; }
  Object* handle(ObjectId id);
  const Model& live() const { return live_; }
  bool stopping() const { return state_ != State::serving || process_.cut; }
  // An operation failed: only for a reason.
  void failed(const char* what, const Error& error);
  // Records an operation whose last step just happened.
  void record(std::vector<Change> changes);
  // Records one of several steps: `begin` before the first, `end` after the last.
  Operation& begin_record(std::vector<Change> changes);
  void end_record(Operation& operation, bool ended_well);
  Task<> flush();
  void check_page(u64 object, u64 page, const std::byte* bytes, const char* what);
  void check_limits();

  // Ranges that operations in progress will change, so that nobody else's order with them is
  // unclear.
  struct Busy {
    u64 object, first, end;
    bool several_steps;
  };
  bool may_start(const Busy& busy) const;
  // An operation of several steps failed half-way: its range stays unclear for this life.
  void keep_busy(Busy range) { unclear_.push_back(range); }
  bool busy_with_nothing() const;
  std::vector<const Busy*> busy;
  u64 changes = 0;  // of anything, so far
  bool script_ended = false;

  Gate& gate() { return gate_; }
  bool clients_idle() const { return gate_.count() == 0; }
  // When the oldest operation in progress began.
  std::set<std::pair<Instant, u64>> running;

 private:
  void trace(const Operation& operation, const char* what);
  Task<> boot();
  Task<bool> open();
  bool is_damage(const Error& error) const;
  Task<> verify();
  Task<> verify_range(u64 object, u64 first, u64 count);
  Task<> close_gently();
  Task<> close();
  Task<> end_post_mortem();

  Site& site_;
  Options options_;
  Process process_;
  StoreView view_;
  std::unique_ptr<Db> db_;
  State state_ = State::opening;
  Model live_;
  TermHistory* history_ = nullptr;
  std::map<u64, Object*> handles_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<Busy> unclear_;
  bool booting_ = false;
  bool closing_ = false;
  bool fence_explained_ = false;
  bool ended_ = false;
  Gate gate_;     // clients
  Gate control_;  // boot, close
};

}  // namespace zerofs::sim
