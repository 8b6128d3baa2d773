// sim: runs seeds of the simulated world, each in one exact way.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>

#include "engine/base/mutant.h"
#include "tests/sim/director.h"
#include "tests/sim/enumerate.h"
#include "tests/sim/report.h"

namespace zerofs::sim {
namespace {

struct Options {
  u64 first = 1;
  u64 last = 0;  // inclusive; 0: until the time is over
  double minutes = 0;
  bool trace = false;
  bool replay = true;
  std::string what;
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
    std::exit(0);  // and looks for leaks, in a build that can
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

// Processor time of the children that have ended.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  const auto seconds = [](timeval time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void print_coverage(double seconds) {
  const Coverage& c = report().coverage;
  fmt::print(
      "{} worlds, {} lives, {} crashes ({} while opening), {:.0f} crashes a second of one core\n"
      "  {} takeovers, {} zombies resumed, {} races, {} clean closes, {} outages\n"
      "  {} operations, {} flushes, {} transactions, {} cold reads, {} large-erase storms, {} "
      "sweeps\n"
      "  {} log objects replayed, {} operations lost, {} ambiguous pages, {} pages verified\n"
      "  {} tables written, {} at most at once; {} store requests, {} faults, {} flips, "
      "{} virtual hours, {} damaged objects\n"
      "  {} compactions, {} levels at most\n",
      c.worlds, c.lives, c.crashes, c.crashes_opening, static_cast<double>(c.crashes) / seconds,
      c.takeovers, c.zombies_resumed, c.races, c.clean_closes, c.outages, c.operations, c.flushes,
      c.transactions, c.cold_reads, c.erases_over_64, c.sweeps, c.replayed_objects,
      c.lost_operations, c.ambiguous_pages, c.pages_verified, c.memtable_flushes, c.tables_max,
      c.requests, c.faults, c.flips_met, c.virtual_seconds / 3600, c.damages, c.compactions,
      c.levels_max);
}

// Runs `all` in a child; when it fails, `once` in another with a memory of what happened, which
// must go the same way.
template <class All, class Once>
int run(const Options& options, All all, Once once) {
  report().print_all = options.trace ? 1 : 0;
  const auto begin = Time::now();
  const Ended first = in_child(all);
  const double seconds = std::chrono::duration<double>(Time::now() - begin).count();
  print_coverage(cpu_seconds());
  if (first.well) {
    fmt::print("{}: good ({:.1f} s)\n", options.what, seconds);
    return 0;
  }
  const bool enumerating = report().point[0] != '\0';
  const std::string name =
      enumerating ? fmt::format("case {}", report().point) : fmt::format("seed {}", report().seed);
  fmt::print("{} FAILED after {:.1f} s: {}\n", name, seconds, report().why);
  if (!options.replay) return 1;
  fmt::print("the last operations:\n");
  report().failed = 0;
  const Ended again = in_child(once);
  const bool same = !again.well && again.hash == first.hash;
  fmt::print("{} FAILED: {}\nreplayed {} (trace hash {:016x})\n", name, report().why,
             same ? "to the identical trace" : "to ANOTHER trace, which is a bug of the simulation",
             first.hash);
  return 1;
}

int run_seeds_of(const Options& options) {
  return run(options, [&] { run_seeds(options); }, [] { run_seed(report().seed, true); });
}

int run_points(const Options& options, u64 seeds) {
  return run(
      options, [&] { perform_all(seeds); },
      [] { perform(*CrashPoint::parse(report().point), true); });
}

int run_point(const Options& options, const CrashPoint& point) {
  return run(options, [&] { perform(point, options.trace); }, [&] { perform(point, true); });
}

}  // namespace
}  // namespace zerofs::sim

int main(int argc, char** argv) {
  using namespace zerofs::sim;
  CLI::App app("The simulated world: one seed, one run.");
  Options options;
  zerofs::u64 seed = 0;
  std::string seeds;
  std::string crash_point;
  bool enumerate = false;
  zerofs::u64 schedules = 3;
  bool engine_log = false;
  bool no_replay = false;
  std::string mutant;
  bool list_mutants = false;
  app.add_option("--seed", seed, "run this seed; with --minutes, begin with it");
  app.add_option("--seeds", seeds, "run seeds A..B");
  app.add_option("--minutes", options.minutes, "run fresh seeds for so long");
  app.add_flag("--enumerate", enumerate, "crash a script after each of its store effects");
  app.add_option("--schedules", schedules, "of each crash point")->capture_default_str();
  app.add_option("--case", crash_point, "perform one crash point, as --enumerate names it");
  app.add_flag("--trace", options.trace, "print what happens");
  app.add_flag("--no-replay", no_replay, "do not repeat what fails");
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
  options.replay = !no_replay;
  if (!engine_log) spdlog::set_level(spdlog::level::off);
  if (enumerate) {
    options.what = "every crash point";
    return run_points(options, schedules);
  }
  if (!crash_point.empty()) {
    const auto point = CrashPoint::parse(crash_point);
    if (!point) {
      fmt::print(stderr, "--case is SEED:EFFECTS:here|elsewhere:EFFECTS\n");
      return 2;
    }
    options.what = "crash point " + crash_point;
    return run_point(options, *point);
  }
  if (!seeds.empty()) {
    const auto dots = seeds.find("..");
    options.first = std::stoull(seeds);
    options.last = dots == std::string::npos ? options.first : std::stoull(seeds.substr(dots + 2));
    options.what = "seeds " + seeds;
  } else if (options.minutes != 0) {
    const auto now = std::chrono::system_clock::now().time_since_epoch().count();
    options.first = seed != 0 ? seed : static_cast<zerofs::u64>(now);
    options.what = fmt::format("seeds from {}", options.first);
  } else {
    options.first = options.last = seed != 0 ? seed : 1;
    options.what = fmt::format("seed {}", options.first);
  }
  return run_seeds_of(options);
}
