// VersionSet: the manifest as a log of full snapshots, committed by create-if-absent.
//
// A commit takes the newest version, applies an edit and creates version + 1. An edit is a list of
// operations on named things, each validated on the version that it is applied to, never a copy
// of fields; so it can be applied again to a version that somebody else made. "Exists already"
// means look: our own bytes are a lost reply; otherwise reload, give up if a newer term is there
// (fenced), else validate again. A create without an answer is repeated with the same bytes until
// it has one: only then is it known which version we act on.
//
// After creating version N the committer reads gone/<block of N>: if the marker exists, versions of
// that block were deleted, the base was ancient, and nothing was committed (DESIGN section 6).
#pragma once

#include <variant>

#include "engine/base/sync.h"
#include "engine/format/manifest.h"
#include "engine/store/object_store.h"

namespace zerofs::lsm {

// A new writer term; must be newer than every other.
struct TakeTerm {
  format::TermRecord record;
};
// The term's log ends at `end`. Valid only while it is unsealed.
struct SealTerm {
  Term term;
  u64 end = 0;
  bool closed_cleanly = false;
};
// A memtable became tables: they go in front of level 0 and replay of each listed term starts
// where the memtable ended. Valid only if each replay point is still `from`.
struct FlushMemtable {
  struct Move {
    Term term;
    u64 from = 0;
    u64 to = 0;
  };
  std::vector<Move> moves;
  std::vector<format::TableRecord> tables;  // disjoint, in key order
};
// A compaction: the inputs leave their places and the outputs enter `level`. Valid only if all inputs
// are still there, those of level 0 are its oldest, and the outputs overlap nothing in a deeper level.
struct ReplaceTables {
  struct Place {
    u32 level = 0;
    format::TableId id;
    friend bool operator==(const Place&, const Place&) = default;
  };
  std::vector<Place> inputs;
  u32 level = 0;
  std::vector<format::TableRecord> outputs;  // disjoint, in key order
};
using Edit = std::vector<std::variant<TakeTerm, SealTerm, FlushMemtable, ReplaceTables>>;

// Errors: precondition when an operation is not valid on this version; nothing is changed then.
Result<format::Manifest> apply_edit(const format::Manifest& base, const Edit& edit);

class VersionSet {
 public:
  VersionSet(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys);

  // Makes version 1 of an empty database. Errors: precondition when any manifest exists.
  Task<> create();

  // Finds and reads the newest version. Errors: not_found, corrupt (the log names the object).
  Task<> load();

  // Our own term: from now on a commit that meets a newer one fails with `fenced`.
  void set_term(Term term) { term_ = term; }

  // Errors: fenced; precondition (the edit is not valid any more: its result is dropped);
  // cancelled after abandon().
  Task<> commit(Edit edit);
  void abandon() { abandoned_ = true; }

  const format::Manifest& current() const { return current_; }

  // Whether somebody has taken a newer term than ours. Reads only.
  Task<bool> is_superseded();

 private:
  Task<u64> newest_version();
  Task<format::Manifest> read(u64 version);
  Task<> adopt_newest();
  enum class Outcome : u8 { committed, exists };
  Task<Outcome> create_version(u64 version, Bytes body);
  Task<bool> is_gone(u64 version);

  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  format::Manifest current_;
  std::optional<Term> term_;
  bool abandoned_ = false;
  bool committing_ = false;
  Event turn_;  // one commit at a time
};

}  // namespace zerofs::lsm
