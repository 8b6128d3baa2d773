// What must be true (DESIGN section 1, P1-P4 and P6): the history of every term, what each of them
// left behind, and the checks.
//
// When a process has opened the database with term T, the manifest says where the log of every
// older term ends. The state that T starts from must be exactly that of all operations of the older
// terms below those ends, and no end may lie below an acknowledged flush. Once a term is resolved
// in this way, a flush that its (fenced, late) writer acknowledges must lie below the end as well.
#pragma once

#include <deque>
#include <set>

#include "tests/sim/model.h"
#include "tests/sim/sim_store.h"

namespace zerofs::sim {

struct TermHistory {
  Term term;
  std::deque<Operation> operations;
  u64 done = 0;          // operations that have ended
  u64 acknowledged = 0;  // those with done_index below this are covered by a flush
  u64 checked_end = 0;   // log objects below were seen in the store
  bool closed_well = false;
  std::optional<u64> end;  // of its log, once a successor has resolved it
};

class Oracle {
 public:
  Oracle(World& world, const format::DatabaseKeys& keys) : world_(world), keys_(keys) {
    after_[0] = committed_;
  }

  // The process has taken `term` and is about to serve. Resolves all older terms; the state that
  // it starts from goes to `state`.
  TermHistory& opened(Term term, Model& state);
  // A flush that began when `done` operations had ended was acknowledged at `position`.
  void flushed(TermHistory& history, u64 done, Position position);

  // What the last resolutions touched, and what nobody has looked at since.
  std::set<Model::Place>& suspects() { return suspects_; }
  // One of the possible values of a page turned out to be there.
  void adopt(Model::Place place, const PageValue& value);

  format::Manifest newest_manifest() const;
  format::Manifest manifest(u64 version) const;
  // Every object that the newest manifest needs exists and is what it should be.
  void audit();

  const Model& committed() const { return committed_; }
  void new_object(ObjectId id);
  u64 next_stamp() { return ++stamp_; }

 private:
  void resolve(const format::TermRecord& record);
  void must_be_below(const TermHistory& history, u64 done, u64 end, const char* what);

  World& world_;
  const format::DatabaseKeys& keys_;
  std::map<u64, TermHistory> terms_;
  Model committed_;  // after the last resolved term
  u64 resolved_ = 0;
  std::map<u64, Model> after_;  // each of the last resolved terms
  std::set<Model::Place> suspects_;
  std::set<u64> ids_;
  u64 stamp_ = 0;
};

}  // namespace zerofs::sim
