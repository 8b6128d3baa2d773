// Does the store keep the one promise that everything rests on: atomic create-if-absent?
#pragma once

#include "engine/base/sync.h"
#include "engine/store/object_store.h"

namespace zerofs::store {

// What the thorough probe found right, in words, one line each: for people.
using ProbeReport = std::vector<std::string>;

// At init, and when asked: races creates of one name in several rounds, over as many connections as
// the store opens for them; creates over what exists; reads ranges and suffixes, past the end too;
// lists from many connections what was just written; removes what it made. `report` may be null.
// Errors: invalid (the text says what the store did wrong), and what the store answers.
Task<> probe_thoroughly(Runtime runtime, ObjectStore& store, ProbeReport* report = nullptr);

// At every start, two requests in the steady state. `place` names the way by which the store is
// reached, in characters of object names: one that was not probed before is probed thoroughly
// now, for what stands at another endpoint may be another program. A create over an existing name
// must be refused. Errors: as above.
Task<> probe_at_start(Runtime runtime, ObjectStore& store, std::string place);

}  // namespace zerofs::store
