// Which process opened a database, and whether such a process is still there.
#pragma once

#include "engine/format/manifest.h"

namespace zerofs::tools {

// This process.
format::Owner this_process(std::string role);

// True only when the owner ran on this machine, since its last boot and in this pid namespace, and
// is no more. Everything else may be alive.
bool is_gone(const format::Owner& owner);

}  // namespace zerofs::tools
