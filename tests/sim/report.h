// What a run tells its parent. Seeds run in a child process, so that a failed INVARIANT, a
// sanitizer's abort and a broken promise are all the same: the child ends, and the parent knows
// seed and hash from memory that they share.
#pragma once

#include <string>

#include "engine/base/types.h"

namespace zerofs::sim {

struct Coverage {
  u64 worlds, lives, crashes, crashes_opening, clean_closes, takeovers, zombies_resumed, races;
  u64 operations, flushes, transactions, cold_reads, memtable_flushes, tables_max;
  u64 replayed_objects, lost_operations, erases_over_64, sweeps, ambiguous_pages;
  u64 pages_verified, outages, flips_met, faults, requests, virtual_seconds, damages;
  u64 compactions, levels_max;
};

struct Report {
  u64 seed;
  u64 hash;       // of the trace so far
  u64 failed;     // a promise was broken; `why` says which
  u64 print_all;  // trace lines go to stdout at once
  char why[400];
  char point[64];  // the crash point that is being performed, if any
  Coverage coverage;
};

Report& report();
// A line of the last operations, kept in memory until the run fails.
void keep_trace_line(std::string line);
void print_kept_lines();
[[noreturn]] void fail_run(const std::string& why);

}  // namespace zerofs::sim
