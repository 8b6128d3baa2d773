#include "tests/sim/report.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <deque>

namespace zerofs::sim {

namespace {
constexpr std::size_t kLinesKept = 40;
std::deque<std::string>& lines() {
  static std::deque<std::string> kept;
  return kept;
}
}  // namespace

Report& report() {
  static Report* const shared = [] {
    void* memory =
        mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    INVARIANT(memory != MAP_FAILED);
    return new (memory) Report{};
  }();
  return *shared;
}

void keep_trace_line(std::string line) {
  if (report().print_all) {
    fmt::print("{}\n", line);
    return;
  }
  lines().push_back(std::move(line));
  if (lines().size() > kLinesKept) lines().pop_front();
}

void print_kept_lines() {
  for (const std::string& line : lines()) fmt::print("    {}\n", line);
  std::fflush(stdout);
}

void fail_run(const std::string& why) {
  Report& to = report();
  to.failed = 1;
  why.copy(to.why, sizeof to.why - 1);
  print_kept_lines();
  std::fflush(stdout);
  _exit(1);
}

}  // namespace zerofs::sim
