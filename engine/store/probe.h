// Does the store keep the one promise that everything rests on: atomic create-if-absent?
#pragma once

#include "engine/base/sync.h"
#include "engine/store/object_store.h"

namespace zerofs::store {

// At init: races creates of one name in several rounds, then reads back, suffix-reads, reads past
// the end and lists. Removes what it made. Errors: invalid (the text says what the store did wrong).
Task<> probe_thoroughly(Runtime runtime, ObjectStore& store);

// At every start, one request in the steady state: a create over an existing name must be refused.
// Errors: invalid.
Task<> probe_at_start(Runtime runtime, ObjectStore& store);

}  // namespace zerofs::store
