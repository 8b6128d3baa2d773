// sim: runs seeds of the simulated world, each in one exact way.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>

#include "engine/base/mutant.h"
#include "tests/sim/director.h"
#include "tests/sim/report.h"

namespace zerofs::sim {
namespace {

struct Options {
  u64 first = 1;
  u64 last = 0;  // inclusive; 0: until the time is over
  double minutes = 0;
  bool trace = false;
};

void run_seed(u64 seed, bool tracing) {
  report().seed = seed;
  World world(seed, tracing);
  Director director(world);
  director.run();
}

using Time = std::chrono::steady_clock;

// The child's part: all seeds until the first failure, which ends the process.
void run_seeds(const Options& options) {
  const auto end = Time::now() + std::chrono::duration<double>(options.minutes * 60);
  for (u64 seed = options.first;; ++seed) {
    if (options.last != 0 ? seed > options.last : Time::now() >= end) break;
    run_seed(seed, options.trace);
  }
}

void aborted(int) {
  print_kept_lines();
  std::signal(SIGABRT, SIG_DFL);
  std::abort();
}

struct Ended {
  bool well;
  u64 hash;
};

template <class Work>
Ended in_child(Work work) {
  std::fflush(stdout);
  const pid_t child = fork();
  INVARIANT(child >= 0);
  if (child == 0) {
    std::signal(SIGABRT, aborted);
    work();
    std::fflush(stdout);
    _exit(0);
  }
  int status = 0;
  INVARIANT(waitpid(child, &status, 0) == child);
  const bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!well && report().failed == 0) {
    fmt::format_to_n(report().why, sizeof report().why - 1, "ended by signal {}",
                     WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  }
  return {well, report().hash};
}

void print_coverage(double seconds) {
  const Coverage& c = report().coverage;
  fmt::print(
      "{} worlds, {} lives, {} crashes ({} while opening), {:.0f} crashes a second\n"
      "  {} takeovers, {} zombies resumed, {} races, {} clean closes, {} outages\n"
      "  {} operations, {} flushes, {} transactions, {} cold reads, {} large-erase storms\n"
      "  {} log objects replayed, {} operations lost, {} ambiguous pages, {} pages verified\n"
      "  {} tables written, {} at most at once; {} store requests, {} faults, {} flips, "
      "{} virtual hours\n",
      c.worlds, c.lives, c.crashes, c.crashes_opening, static_cast<double>(c.crashes) / seconds,
      c.takeovers, c.zombies_resumed, c.races, c.clean_closes, c.outages, c.operations, c.flushes,
      c.transactions, c.cold_reads, c.erases_over_64, c.replayed_objects, c.lost_operations,
      c.ambiguous_pages, c.pages_verified, c.memtable_flushes, c.tables_max, c.requests, c.faults,
      c.flips_met, c.virtual_seconds / 3600);
}

int run(const Options& options) {
  report().print_all = options.trace ? 1 : 0;
  const auto begin = Time::now();
  const Ended first = in_child([&] { run_seeds(options); });
  const double seconds = std::chrono::duration<double>(Time::now() - begin).count();
  print_coverage(seconds);
  if (first.well) {
    fmt::print("seeds {}..{}: good ({:.1f} s)\n", options.first, report().seed, seconds);
    return 0;
  }
  const u64 seed = report().seed;
  fmt::print("seed {} FAILED after {:.1f} s: {}\nthe last operations:\n", seed, seconds,
             static_cast<const char*>(report().why));
  // The same again, with a memory of what happened; it must go the same way.
  report().failed = 0;
  const Ended again = in_child([&] { run_seed(seed, true); });
  const bool same = !again.well && again.hash == first.hash;
  fmt::print("seed {} FAILED: {}\nreplayed {} (trace hash {:016x})\n", seed,
             static_cast<const char*>(report().why),
             same ? "to the identical trace" : "to ANOTHER trace, which is a bug of the simulation",
             first.hash);
  return 1;
}

}  // namespace
}  // namespace zerofs::sim

int main(int argc, char** argv) {
  using namespace zerofs::sim;
  CLI::App app("The simulated world: one seed, one run.");
  Options options;
  zerofs::u64 seed = 0;
  std::string seeds;
  bool engine_log = false;
  std::string mutant;
  bool list_mutants = false;
  app.add_option("--seed", seed, "run this seed");
  app.add_option("--seeds", seeds, "run seeds A..B");
  app.add_option("--minutes", options.minutes, "run fresh seeds for so long");
  app.add_flag("--trace", options.trace, "print what happens");
  app.add_flag("--engine-log", engine_log, "print what the engine logs");
  app.add_option("--mutant", mutant, "activate a planted bug (builds with -Dmutants=true)");
  app.add_flag("--list-mutants", list_mutants, "name the planted bugs");
  CLI11_PARSE(app, argc, argv);
  if (list_mutants) {
#define ZEROFS_MUTANT_PRINT(name) fmt::print("{}\n", #name);
    ZEROFS_MUTANTS(ZEROFS_MUTANT_PRINT)
#undef ZEROFS_MUTANT_PRINT
    return 0;
  }
  if (!mutant.empty()) {
#ifndef ZEROFS_WITH_MUTANTS
    fmt::print(stderr, "this build holds no mutants: scripts/build build/mutants mutants\n");
    return 2;
#endif
    setenv("ZEROFS_MUTANT", mutant.c_str(), 1);
  }
  if (!engine_log) spdlog::set_level(spdlog::level::off);
  if (!seeds.empty()) {
    const auto dots = seeds.find("..");
    options.first = std::stoull(seeds);
    options.last = dots == std::string::npos ? options.first : std::stoull(seeds.substr(dots + 2));
  } else if (options.minutes != 0) {
    options.first = seed != 0 ? seed
                              : static_cast<zerofs::u64>(
                                    std::chrono::system_clock::now().time_since_epoch().count());
  } else {
    options.first = options.last = seed != 0 ? seed : 1;
  }
  return run(options);
}
