// Recovery: ends the logs of writers that did not seal theirs, and reads what is to be replayed
// (DESIGN section 6).
//
// The end of a log is decided by occupying it: where a slot is missing, a fence is created there;
// where that create meets something, the something is read and decided by the same rules. A 404
// alone would prove nothing, for a PUT of the old writer may still be on its way. An object that
// exists but fails authentication stops the opening: it is never "the end of the log".
#pragma once

#include "engine/base/sync.h"
#include "engine/format/log_object.h"
#include "engine/format/manifest.h"
#include "engine/store/object_store.h"

namespace zerofs::log {

// What a term's log holds from its replay point on.
struct RecoveredLog {
  Term term;
  u64 from = 0;
  u64 end = 0;                        // [from, end) are log objects
  std::vector<lsm::LayerRef> layers;  // of those, in order
  u64 data_bytes = 0;
};

class Recovery {
 public:
  // `uploads_max` is the largest W that any writer of this format uses.
  Recovery(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
           u32 uploads_max);

  // An unsealed term: walks up from its replay point, fences it where it ends, and makes sure that
  // nothing above the fence proves an acknowledged object lost. Errors: corrupt (the log names the
  // object), retry.
  Task<RecoveredLog> fence_and_read(format::TermRecord record, Term own_term);

  // A sealed term: reads [replay_from, end). Errors: corrupt, retry.
  Task<RecoveredLog> read_sealed(format::TermRecord record);

 private:
  struct Slot {
    enum class Kind : u8 { missing, fence, log_object } kind = Kind::missing;
    lsm::LayerRef layer;
    format::LogFooter footer;
  };
  enum class Want : u8 { layer, footer };
  class Walk;
  Task<Slot> read_slot(format::TermRecord record, u64 seq, Want want);
  Task<Slot::Kind> take_while_there(Walk& walk, RecoveredLog& log);
  Task<bool> create_fence(Term term, u64 seq, Term own_term);
  Task<> check_above(format::TermRecord record, u64 end);
  Task<> check_slots_above(Walk& walk, format::TermRecord record, u64 end);
  static void take(RecoveredLog& log, Slot& slot);

  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  u32 uploads_max_;
};

}  // namespace zerofs::log
