// nbd_load: a cheap NBD load generator on a raw socket. One thread, one connection; requests leave
// in one send for all that became free, replies are taken with large receives and read data is
// skipped over without looking, so that the client costs less than the server it measures.
//
// Prints one JSON object: iops, MB/s, latency (mean, p50, p99, in microseconds) and, with --pid,
// the server's CPU microseconds per operation (user and system, all threads).
#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "nbd/wire.h"

namespace zerofs::nbd {
namespace {

struct Options {
  std::string path;
  std::string name = "data";
  std::string operation = "randread";
  u32 queue_depth = 32;
  u32 block = 4096;
  double seconds = 5;
  u64 region = 1u << 30;
  u64 bytes = 0;       // stop after this many, 0: after `seconds`
  u32 flush_every = 0;  // operations
  u32 compress_percent = 0;
  int pid = 0;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "nbd_load: {}\n", what);
  std::exit(1);
}

double now_us() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<double>(ts.tv_sec) * 1e6 + static_cast<double>(ts.tv_nsec) * 1e-3;
}

// CPU time of all threads of a process, from the scheduler's own nanosecond counters.
double cpu_us(int pid) {
  if (pid == 0) return 0;
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const std::size_t close = line.rfind(')');
  if (close == std::string::npos) die("no such process");
  std::istringstream fields(line.substr(close + 1));
  std::string field;
  for (int i = 3; i < 14; ++i) fields >> field;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) * 1e6 / static_cast<double>(sysconf(_SC_CLK_TCK));
}

class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)), random_(1) {}

  int run() {
    connect_and_negotiate();
    prepare_payload();
    const bool reads = options_.operation.ends_with("read");
    issued_at_.resize(options_.queue_depth);
    input_.resize(1 << 20);
    const double cpu_begin = cpu_us(options_.pid);
    const double begin = now_us();
    const double end = begin + options_.seconds * 1e6;
    for (u32 slot = 0; slot < options_.queue_depth; ++slot) free_.push_back(slot);
    bool more = true;
    while (more || in_flight_ != 0) {
      if (more) issue(reads);
      collect(reads);
      more = options_.bytes != 0 ? sent_bytes_ < options_.bytes : now_us() < end;
    }
    const double elapsed = now_us() - begin;
    const double cpu = cpu_us(options_.pid) - cpu_begin;
    report(elapsed, cpu);
    return 0;
  }

 private:
  void send_all(const void* data, std::size_t size) {
    const char* at = static_cast<const char*>(data);
    while (size != 0) {
      const ssize_t count = send(fd_, at, size, MSG_NOSIGNAL);
      if (count <= 0) die("the server closed the connection");
      at += count;
      size -= static_cast<std::size_t>(count);
    }
  }
  void receive_all(void* data, std::size_t size) {
    if (recv(fd_, data, size, MSG_WAITALL) != static_cast<ssize_t>(size)) {
      die("the server closed the connection");
    }
  }

  void connect_and_negotiate() {
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", options_.path.c_str());
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      die("cannot connect to " + options_.path);
    }
    Greeting greeting;
    receive_all(&greeting, sizeof greeting);
    const Be<u32> flags = kFlagFixedNewstyle | kFlagNoZeroes;
    send_all(&flags, sizeof flags);
    std::string payload;
    const Be<u32> length = static_cast<u32>(options_.name.size());
    payload.append(reinterpret_cast<const char*>(length.raw), 4);
    payload += options_.name;
    payload.append(2, '\0');
    OptionHeader header;
    header.magic = kOptionMagic;
    header.option = static_cast<u32>(Option::go);
    header.length = static_cast<u32>(payload.size());
    send_all(&header, sizeof header);
    send_all(payload.data(), payload.size());
    for (;;) {
      OptionReply reply;
      receive_all(&reply, sizeof reply);
      std::vector<char> body(reply.length);
      if (!body.empty()) receive_all(body.data(), body.size());
      if (reply.type == kRepAck) break;
      if ((reply.type & 0x80000000) != 0) die("the server refuses the export");
    }
  }

  // Random data with a stretch of zeroes in each block, as fio's buffer_compress_percentage.
  void prepare_payload() {
    payload_.resize(std::max<std::size_t>(64u << 20, 2 * options_.block));
    for (std::size_t i = 0; i < payload_.size(); i += 8) {
      const u64 value = random_();
      std::memcpy(payload_.data() + i, &value, 8);
    }
    const std::size_t zero = std::size_t{options_.block} * options_.compress_percent / 100;
    for (std::size_t i = 0; i + options_.block <= payload_.size(); i += options_.block) {
      std::memset(payload_.data() + i, 0, zero);
    }
  }

  void issue(bool reads) {
    if (free_.empty()) return;
    output_.clear();
    const u64 blocks = options_.region / options_.block;
    const double now = now_us();
    for (const u32 slot : free_) {
      RequestHeader header;
      header.magic = kRequestMagic;
      header.flags = u16{0};
      header.cookie = slot;
      issued_at_[slot] = now;
      const bool flush = options_.flush_every != 0 && ++since_flush_ > options_.flush_every;
      if (flush) {
        since_flush_ = 0;
        header.type = static_cast<u16>(Command::flush);
        header.offset = u64{0};
        header.length = 0u;
        output_.insert(output_.end(), reinterpret_cast<char*>(&header),
                       reinterpret_cast<char*>(&header + 1));
      } else {
        const u64 block = options_.operation.starts_with("rand") ? random_() % blocks
                                                                 : next_block_++ % blocks;
        header.type = static_cast<u16>(reads ? Command::read : Command::write);
        header.offset = block * options_.block;
        header.length = options_.block;
        output_.insert(output_.end(), reinterpret_cast<char*>(&header),
                       reinterpret_cast<char*>(&header + 1));
        if (!reads) {
          const std::size_t at =
              payload_at_ + options_.block <= payload_.size() ? payload_at_ : 0;
          payload_at_ = at + options_.block;
          output_.insert(output_.end(), payload_.data() + at, payload_.data() + at + options_.block);
        }
        sent_bytes_ += options_.block;
      }
      flushing_.resize(options_.queue_depth);
      flushing_[slot] = flush;
      ++in_flight_;
    }
    free_.clear();
    send_all(output_.data(), output_.size());
  }

  void collect(bool reads) {
    const ssize_t count = recv(fd_, input_.data() + have_, input_.size() - have_, 0);
    if (count <= 0) die("the server closed the connection");
    have_ += static_cast<std::size_t>(count);
    std::size_t at = 0;
    const double now = now_us();
    for (;;) {
      if (skip_ != 0) {
        const std::size_t step = std::min(skip_, have_ - at);
        at += step;
        skip_ -= step;
        if (skip_ != 0) break;
        finish(current_, now);
      }
      if (have_ - at < sizeof(SimpleReply)) break;
      SimpleReply reply;
      std::memcpy(&reply, input_.data() + at, sizeof reply);
      at += sizeof reply;
      if (reply.magic != kSimpleReplyMagic || reply.error != 0u) die("an error reply");
      current_ = static_cast<u32>(u64{reply.cookie});
      if (reads && !flushing_[current_]) {
        skip_ = options_.block;
      } else {
        finish(current_, now);
      }
    }
    std::memmove(input_.data(), input_.data() + at, have_ - at);
    have_ -= at;
  }

  void finish(u32 slot, double now) {
    latencies_.push_back(static_cast<float>(now - issued_at_[slot]));
    free_.push_back(slot);
    --in_flight_;
  }

  void report(double elapsed, double cpu) {
    const double count = static_cast<double>(latencies_.size());
    double sum = 0;
    for (const float latency : latencies_) sum += latency;
    const auto percentile = [&](double part) {
      const auto at = latencies_.begin() +
                      static_cast<std::ptrdiff_t>(part * static_cast<double>(latencies_.size() - 1));
      std::nth_element(latencies_.begin(), at, latencies_.end());
      return *at;
    };
    fmt::print(
        "{{\"iops\": {:.0f}, \"mb_per_s\": {:.1f}, \"mean_us\": {:.1f}, \"p50_us\": {:.1f}, "
        "\"p99_us\": {:.1f}, \"cpu_us_per_op\": {:.3f}}}\n",
        count / elapsed * 1e6, count * options_.block / elapsed, sum / count, percentile(0.5),
        percentile(0.99), cpu / count);
  }

  Options options_;
  std::mt19937_64 random_;
  int fd_ = -1;
  std::vector<char> payload_;
  std::size_t payload_at_ = 0;
  std::vector<char> output_;
  std::vector<char> input_;
  std::size_t have_ = 0;
  std::size_t skip_ = 0;
  u32 current_ = 0;
  std::vector<double> issued_at_;
  std::vector<char> flushing_;
  std::vector<u32> free_;
  std::vector<float> latencies_;
  u64 in_flight_ = 0;
  u64 next_block_ = 0;
  u64 sent_bytes_ = 0;
  u32 since_flush_ = 0;
};

}  // namespace
}  // namespace zerofs::nbd

int main(int argc, char** argv) {
  zerofs::nbd::Options options;
  CLI::App app("A cheap NBD load generator on a unix socket.");
  app.add_option("--socket", options.path, "unix socket of the server")->required();
  app.add_option("--export", options.name, "export");
  app.add_option("--op", options.operation, "read, write, randread, randwrite")
      ->check(CLI::IsMember({"read", "write", "randread", "randwrite"}));
  app.add_option("--queue-depth", options.queue_depth, "requests in flight")->check(CLI::Range(1, 4096));
  app.add_option("--block", options.block, "bytes a request");
  app.add_option("--seconds", options.seconds, "how long");
  app.add_option("--bytes", options.bytes, "stop after so many bytes instead");
  app.add_option("--region", options.region, "bytes of the export that are used");
  app.add_option("--flush-every", options.flush_every, "a FLUSH after so many operations");
  app.add_option("--compress-percent", options.compress_percent, "zeroes in the data written");
  app.add_option("--pid", options.pid, "server process whose CPU is counted");
  CLI11_PARSE(app, argc, argv);
  return zerofs::nbd::Load(options).run();
}
