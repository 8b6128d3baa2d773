#include "tools/owner.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <fstream>
#include <sstream>

namespace zerofs::tools {

namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Field 22 of /proc/<pid>/stat, in clock ticks since boot; 0 when there is no such process.
// proc(5): the second field is the command in parentheses and may hold anything.
u64 start_time_of(u64 pid) {
  const std::string line = first_line("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t close = line.rfind(')');
  if (close == std::string::npos) return 0;
  std::istringstream fields(line.substr(close + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return std::strtoull(field.c_str(), nullptr, 10);
}

std::string pid_namespace() {
  struct stat info{};
  if (stat("/proc/self/ns/pid", &info) != 0) return "";
  return std::to_string(info.st_ino);
}

}  // namespace

format::Owner this_process(std::string role) {
  format::Owner owner;
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) == 0) owner.hostname = name;
  owner.machine_id = first_line("/etc/machine-id");
  owner.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  owner.pid_namespace = pid_namespace();
  owner.pid = static_cast<u64>(getpid());
  owner.start_time = start_time_of(owner.pid);
  owner.opened_unix_seconds = static_cast<u64>(std::time(nullptr));
  owner.role = std::move(role);
  return owner;
}

bool is_gone(const format::Owner& owner) {
  const format::Owner self = this_process("");
  // The boot id is random per boot, so it names the machine too where there is no machine id.
  if (owner.boot_id.empty() || owner.boot_id != self.boot_id) return false;
  if (owner.machine_id != self.machine_id) return false;
  if (owner.pid_namespace.empty() || owner.pid_namespace != self.pid_namespace) return false;
  if (owner.pid == 0 || owner.start_time == 0) return false;
  return start_time_of(owner.pid) != owner.start_time;
}

}  // namespace zerofs::tools
