// raw_publish: what one durable create costs on a disk without any server: O_TMPFILE, write, fsync,
// linkat, fsync of the directory. Prints the median in microseconds.
// Usage: raw_publish DIRECTORY BYTES COUNT
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: raw_publish DIRECTORY BYTES COUNT\n");
    return 2;
  }
  const int directory = open(argv[1], O_RDONLY | O_DIRECTORY);
  const std::vector<char> body(std::strtoull(argv[2], nullptr, 10), 'x');
  std::vector<double> times;
  for (int i = 0; i < std::atoi(argv[3]); ++i) {
    timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    const int fd = openat(directory, ".", O_TMPFILE | O_WRONLY, 0600);
    const std::string self = fmt::format("/proc/self/fd/{}", fd);
    const std::string name = fmt::format("raw-{}-{}", getpid(), i);
    const bool ok = fd >= 0 &&
                    write(fd, body.data(), body.size()) == static_cast<ssize_t>(body.size()) &&
                    fsync(fd) == 0 &&
                    linkat(AT_FDCWD, self.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) == 0 &&
                    fsync(directory) == 0;
    close(fd);
    timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (!ok) {
      std::perror("raw_publish");
      return 1;
    }
    times.push_back(static_cast<double>(end.tv_sec - begin.tv_sec) * 1e6 +
                    static_cast<double>(end.tv_nsec - begin.tv_nsec) * 1e-3);
    unlinkat(directory, name.c_str(), 0);
  }
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  fmt::print("{:.1f}\n", times[times.size() / 2]);
  return 0;
}
