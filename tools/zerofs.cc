// zerofs: the program. Parse, set up the process, run the command.
#include <malloc.h>
#include <signal.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "tools/commands.h"

namespace zerofs::tools {
namespace {

// Keys and plaintext of users' data are in this process: no core files, no ptrace by others.
void protect_memory() {
  prctl(PR_SET_DUMPABLE, 0);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

// Signals arrive through a descriptor in the ring, on the one thread that wants them; a client that
// hangs up is an error of its socket.
void set_up_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

// Large buffers go back to the system when they are freed, and the store's threads share arenas, so
// that --memory means what it says.
void set_up_allocator() {
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  mallopt(M_ARENA_MAX, 2);
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The message as the inside of a JSON text.
class JsonMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    const std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
    out.append(quoted.data() + 1, quoted.data() + quoted.size() - 1);
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

void set_up_log(const Options& options) {
  auto logger =
      std::make_shared<spdlog::logger>("zerofs", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(spdlog::level::from_str(options.log_level));
  if (options.log_format == "json") {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<JsonMessage>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","message":"%*"})");
    logger->set_formatter(std::move(formatter));
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  }
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

Exit run(const Options& options) {
  if (options.command == "serve") return run_serve(options);
  if (options.command == "init") return run_init(options);
  if (options.command == "change-password") return run_change_password(options);
  if (options.command == "status") return run_status(options);
  if (options.command == "store check") return run_store_check(options);
  return run_volume(options);
}

}  // namespace
}  // namespace zerofs::tools

int main(int argc, char** argv) {
  using namespace zerofs::tools;
  protect_memory();
  set_up_allocator();
  ParseOutcome parsed = parse_options(argc, argv);
  if (parsed.exit) return static_cast<int>(*parsed.exit);
  if (parsed.options.command != "serve") {
    // A person reads this: warnings and errors only, unless asked otherwise.
    if (parsed.options.log_level == "info") parsed.options.log_level = "warn";
  } else {
    set_up_signals();
    raise_descriptor_limit();
  }
  set_up_log(parsed.options);
  return static_cast<int>(run(parsed.options));
}
