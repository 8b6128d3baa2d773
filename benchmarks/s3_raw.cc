// s3_raw: what the S3 client alone reaches against a server: parallel PUTs or GETs of one size, no
// engine, no compression, no encryption. The denominator of every ratio about S3.
//
// Prints one JSON object: operations and MiB per second, latency (mean, p50, p99, in milliseconds),
// this process's CPU microseconds per operation and per MiB (user and system, all threads), the
// requests by answer, and how many connections it took.
//
// Example: s3_raw --url s3://bucket/bench --endpoint http://127.0.0.1:7480 --region default
//                 --operation put --bytes 4096 --parallel 1 --seconds 5
#include <fmt/format.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "engine/base/reactor.h"
#include "engine/base/system_random.h"
#include "s3/s3_store.h"

namespace zerofs::s3 {
namespace {

struct Load {
  std::string url;
  Options options;
  std::string operation = "put";
  std::string klass = "log";
  std::string payload = "auto";
  u64 bytes = 4096;
  u64 total_bytes = 0;  // stop after this many, 0: after `seconds`
  u32 parallel = 1;
  u32 objects = 64;  // that GETs choose from; each at least as large as one read
  double seconds = 5;
  double hedging = 0;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "s3_raw: {}\n", what);
  std::exit(1);
}

double cpu_us() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

store::Class class_of(const std::string& name) {
  if (name == "log") return store::Class::log;
  return name == "bulk" ? store::Class::bulk : store::Class::foreground;
}

class Runner {
 public:
  Runner(const Load& load, Runtime runtime, S3Store& store)
      : load_(load),
        runtime_(runtime),
        store_(store),
        klass_(class_of(load.klass)),
        body_(load.bytes) {
    runtime_.random.fill(body_);
    run_name_ = fmt::format("{:016x}", runtime_.random.next());
  }

  Task<> run() {
    const bool gets = load_.operation == "get";
    if (gets) {
      for (u32 i = 0; i < load_.objects; ++i) co_await store_.create(name(i), body_, klass_);
      made_ = load_.objects;
    }
    // One round to open the connections, which are not what is measured.
    co_await round(load_.parallel, Instant::min(), false);
    latencies_.clear();
    before_ = store_.counters();
    cpu_before_ = cpu_us();
    const Instant begin = runtime_.clock.now();
    const auto seconds = std::chrono::duration<double>(load_.seconds);
    const Instant end = begin + std::chrono::duration_cast<Duration>(seconds);
    co_await round(load_.parallel, load_.total_bytes != 0 ? Instant::max() : end, true);
    seconds_ = std::chrono::duration<double>(runtime_.clock.now() - begin).count();
    cpu_us_ = cpu_us() - cpu_before_;
    after_ = store_.counters();
    for (u64 i = 0; i < made_; i += 1000) {
      std::vector<std::string> names;
      for (u64 j = i; j < std::min(made_, i + 1000); ++j) names.push_back(name(j));
      co_await store_.remove_many(std::move(names));
    }
    co_return {};
  }

  void print() {
    std::ranges::sort(latencies_);
    const auto at = [&](double part) {
      const double index = part * static_cast<double>(latencies_.size() - 1);
      return latencies_[static_cast<std::size_t>(index)];
    };
    double sum = 0;
    for (const double latency : latencies_) sum += latency;
    const double count = static_cast<double>(latencies_.size());
    const double mib = count * static_cast<double>(load_.bytes) / static_cast<double>(kMiB);
    fmt::print(
        "{{\"operation\": \"{}\", \"bytes\": {}, \"parallel\": {}, \"seconds\": {:.3f}, "
        "\"operations\": {}, \"per_second\": {:.1f}, \"mib_per_second\": {:.2f}, "
        "\"mean_ms\": {:.3f}, \"p50_ms\": {:.3f}, \"p99_ms\": {:.3f}, "
        "\"cpu_us_per_operation\": {:.1f}, \"cpu_us_per_mib\": {:.1f}, "
        "\"requests\": {}, \"ok\": {}, \"retries\": {}, \"hedges\": {}, \"connections\": {}}}\n",
        load_.operation, load_.bytes, load_.parallel, seconds_, latencies_.size(), count / seconds_,
        mib / seconds_, sum / count, at(0.5), at(0.99), cpu_us_ / count, cpu_us_ / mib,
        after_.requests() - before_.requests(),
        after_.requests(Answer::ok) - before_.requests(Answer::ok),
        after_.retries[static_cast<u32>(klass_)] - before_.retries[static_cast<u32>(klass_)],
        after_.hedges - before_.hedges, after_.connections - before_.connections);
  }

 private:
  std::string name(u64 i) const { return fmt::format("{}-{:08x}", run_name_, i); }

  Task<> round(u32 parallel, Instant end, bool many) {
    Gate gate(runtime_.executor);
    for (u32 i = 0; i < parallel; ++i) gate.spawn(worker(end, many));
    co_await gate.close();
    co_return {};
  }

  Task<> worker(Instant end, bool many) {
    Buffer buffer(load_.operation == "get" ? load_.bytes : 0);
    do {
      const Instant begin = runtime_.clock.now();
      if (load_.operation == "get") {
        const u64 object = runtime_.random.next() % load_.objects;
        co_await check(store_.read(name(object), 0, buffer, klass_));
      } else {
        co_await check(store_.create(name(made_++), body_, klass_));
      }
      const Duration took = runtime_.clock.now() - begin;
      latencies_.push_back(std::chrono::duration<double, std::milli>(took).count());
    } while (many && runtime_.clock.now() < end &&
             (load_.total_bytes == 0 || latencies_.size() * load_.bytes < load_.total_bytes));
    co_return {};
  }

  static Task<> check(Task<> task) {
    Task<> held = std::move(task);
    const Result<> result = co_await as_result(std::move(held));
    if (!result) die(fmt::format("{} ({})", result.error().text(), result.error().id()));
    co_return {};
  }

  const Load& load_;
  Runtime runtime_;
  S3Store& store_;
  store::Class klass_;
  Buffer body_;
  std::string run_name_;
  u64 made_ = 0;
  std::vector<double> latencies_;
  Counters before_;
  Counters after_;
  double cpu_before_ = 0;
  double cpu_us_ = 0;
  double seconds_ = 0;
};

int run(const Load& load) {
  WorkerPool pool({.threads = 1, .niceness = 5, .urgent_threads = 1, .name = "work"});
  auto reactor = Reactor::create(pool, {});
  if (!reactor) die(reactor.error().text());
  SystemRandom random;
  const Runtime runtime{**reactor, **reactor, random};
  Result<Config> config = config_from(load.url, load.options, SystemEnvironment());
  if (!config) die(config.error().text());
  config->caps = {.log = load.parallel, .foreground = load.parallel, .bulk = load.parallel};
  config->hedging.budget = load.hedging;
  if (load.payload == "signed") config->payload = Payload::signed_;
  if (load.payload == "unsigned") config->payload = Payload::not_signed;
  auto store = S3Store::start(*config, runtime, **reactor);
  if (!store) die(store.error().text());
  Runner runner(load, runtime, **store);
  const Result<> ran = run_until_done(**reactor, runner.run());
  if (!ran) die(fmt::format("{} ({})", ran.error().text(), ran.error().id()));
  runner.print();
  return 0;
}

}  // namespace
}  // namespace zerofs::s3

int main(int argc, char** argv) {
  using zerofs::s3::Load;
  Load load;
  CLI::App app("Parallel PUTs or GETs by the S3 client alone");
  app.add_option("--url", load.url, "s3://bucket/prefix")->required();
  app.add_option("--endpoint", load.options.endpoint);
  app.add_option("--region", load.options.region);
  app.add_option("--ca", load.options.ca_file);
  app.add_option("--operation", load.operation)->check(CLI::IsMember({"put", "get"}));
  app.add_option("--class", load.klass)->check(CLI::IsMember({"log", "foreground", "bulk"}));
  app.add_option("--payload", load.payload)->check(CLI::IsMember({"auto", "signed", "unsigned"}));
  app.add_option("--bytes", load.bytes, "of each object")->check(CLI::PositiveNumber);
  app.add_option("--total", load.total_bytes, "stop after this many bytes");
  app.add_option("--parallel", load.parallel)->check(CLI::Range(1, 1024));
  app.add_option("--objects", load.objects, "that GETs choose from");
  app.add_option("--seconds", load.seconds);
  app.add_option("--hedging", load.hedging, "budget, 0 to 1");
  CLI11_PARSE(app, argc, argv);
  return zerofs::s3::run(load);
}
