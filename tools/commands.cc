#include "tools/commands.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "engine/store/probe.h"
#include "tools/keys.h"
#include "tools/sizes.h"

namespace zerofs::tools {

using store::FileStore;

std::string control_path(const Options& options) {
  if (!options.database.control.empty()) return options.database.control;
  const Result<std::string> canonical = canonical_store(options.database);
  return canonical ? default_control_path(*canonical) : std::string();
}

// ---- init, change-password

Exit run_init(const Options& options) {
  Result<std::unique_ptr<Host>> host = Host::start(options.database, FileStore::IfMissing::create);
  if (!host) return exit_for(host.error());
  const Result<> done = (*host)->run((*host)->init());
  if (!done) {
    explain("init", done.error());
    return exit_for(done.error());
  }
  fmt::print("created a database in {}\n", (*host)->canonical());
  return Exit::ok;
}

namespace {
Task<> change_password(Host& host, const Options& options) {
  format::KeyMaterial before = co_await obtain_key_material(
      {.key_file = options.database.key_file, .password_file = options.database.password_file},
      Purpose::unlock);
  std::vector<u64> slots = co_await find_key_slots(host.store());
  format::DataKey data_key = co_await unlock(host.store(), std::move(slots), std::move(before));
  format::KeyMaterial after =
      co_await obtain_key_material({.key_file = options.new_key_file,
                                    .password_file = options.new_password_file,
                                    .environment = "ZEROFS_NEW_PASSWORD",
                                    .prompt = "New password: "},
                                   Purpose::create);
  co_await replace_key_slots(host.store(), data_key, std::move(after), host.random());
  co_return {};
}
}  // namespace

Exit run_change_password(const Options& options) {
  Result<std::unique_ptr<Host>> host = Host::start(options.database, FileStore::IfMissing::fail);
  if (!host) return exit_for(host.error());
  const Result<> done = (*host)->run(change_password(**host, options));
  if (!done) {
    explain("change-password", done.error());
    return exit_for(done.error());
  }
  fmt::print("the database is locked with the new secret; the old one opens it no more\n");
  return Exit::ok;
}

// ---- store

Exit run_store_check(const Options& options) {
  Result<std::unique_ptr<Host>> host = Host::start(options.database, FileStore::IfMissing::fail);
  if (!host) return exit_for(host.error());
  store::ProbeReport report;
  const Result<> done =
      (*host)->run(store::probe_thoroughly((*host)->runtime(), (*host)->store(), &report));
  for (const std::string& line : report) fmt::print("ok    {}\n", line);
  if (!done) {
    explain((*host)->canonical(), done.error());
    return exit_for(done.error());
  }
  fmt::print("{} can hold a database\n", (*host)->canonical());
  return Exit::ok;
}

// ---- volume

namespace {

Json json_of(const nbd::VolumeInfo& info) {
  return {{"name", info.name},           {"size", info.size},
          {"read_only", info.read_only}, {"created", info.created_unix_seconds},
          {"sessions", info.sessions},   {"object", fmt::format("{:016x}", info.object.value)}};
}

struct NoSessions final : SessionCloser {
  Task<> close_sessions(nbd::Volume&) override { co_return {}; }
};

ControlRequest request_of(const Options& options) {
  return {.command = options.command,
          .name = options.name,
          .size = options.size.value_or(0),
          .shrink = options.shrink};
}

std::string date_of(u64 unix_seconds) {
  const std::time_t time = static_cast<std::time_t>(unix_seconds);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(time));
}

void print_volume_answer(const Options& options, const Json& answer) {
  if (options.json && (options.command == "volume list" || options.command == "volume info")) {
    const char* part = options.command == "volume list" ? "volumes" : "volume";
    fmt::print("{}\n", answer.at(part).dump(2));
    return;
  }
  const auto row = [](const Json& v) {
    const u64 size = v.at("size");
    fmt::print("{:<24} {:>12} {:>20} {:>9}  {}\n", v.at("name").get<std::string>(),
               format_size(size), size, v.at("sessions").get<u64>(), date_of(v.at("created")));
  };
  if (options.command == "volume list" || options.command == "volume info") {
    fmt::print("{:<24} {:>12} {:>20} {:>9}  {}\n", "NAME", "SIZE", "BYTES", "SESSIONS", "CREATED");
  }
  if (options.command == "volume list") {
    for (const Json& volume : answer.at("volumes")) row(volume);
  } else if (options.command == "volume info") {
    row(answer.at("volume"));
  } else if (options.command == "volume create") {
    fmt::print("created {} ({})\n", options.name, format_size(*options.size));
  } else if (options.command == "volume resize") {
    fmt::print("{} has {} now; clients see it when they connect anew\n", options.name,
               format_size(*options.size));
  } else {
    fmt::print("deleted {}\n", options.name);
  }
}

Exit finish_volume(const Options& options, const Json& answer) {
  if (answer.value("ok", false)) {
    print_volume_answer(options, answer);
    return Exit::ok;
  }
  const std::string text = answer.value("error", "failed");
  const Error error(static_cast<Code>(answer.value("code", 0)), text.c_str(),
                    answer.value("id", u64{0}));
  explain(fmt::format("{} {}", options.command, options.name), error);
  return exit_for(error);
}

Task<Json> offline(Host& host, const Options& options) {
  co_await host.open(options.command);
  NoSessions nobody;
  const Result<Json> answer =
      co_await as_result(execute_volume_command(host.volumes(), nobody, request_of(options)));
  co_await host.close();
  if (!answer) co_return error_json(answer.error());
  co_return *answer;
}

}  // namespace

Task<Json> execute_volume_command(nbd::VolumeSet& volumes, SessionCloser& sessions,
                                  ControlRequest request) {
  const auto& [command, name, size, shrink] = request;
  Json answer = ok_json();
  if (command == "volume create") {
    co_await volumes.create(name, size);
  } else if (command == "volume resize") {
    co_await volumes.resize(
        name, size, shrink ? nbd::VolumeSet::Shrink::allow : nbd::VolumeSet::Shrink::refuse);
  } else if (command == "volume delete") {
    const std::shared_ptr<nbd::Volume> volume = volumes.find(name);
    if (volume != nullptr) co_await sessions.close_sessions(*volume);
    co_await volumes.remove(name);
  } else if (command == "volume list") {
    answer["volumes"] = Json::array();
    for (const auto& volume : volumes.list()) answer["volumes"].push_back(json_of(volume->info()));
  } else if (command == "volume info") {
    const std::shared_ptr<nbd::Volume> volume = volumes.find(name);
    if (volume == nullptr) co_return fail(Code::not_found, "there is no such volume");
    answer["volume"] = json_of(volume->info());
  } else {
    co_return invalid("the server does not know this command");
  }
  co_return std::move(answer);
}

namespace {
// Only a server of another version answers what we do not expect.
Exit explain_foreign_answer(const Options& options) {
  explain(options.command, Error(Code::invalid,
                                 "the running server's answer is not what this program expects; "
                                 "is it of another version?"));
  return Exit::failed;
}
}  // namespace

Exit run_volume(const Options& options) {
  const Result<std::optional<Json>> asked = ask_server(control_path(options), request_of(options));
  if (!asked) {
    explain(options.command, asked.error());
    return exit_for(asked.error());
  }
  try {
    if (*asked) return finish_volume(options, **asked);
  } catch (const Json::exception&) {
    return explain_foreign_answer(options);
  }

  Result<std::unique_ptr<Host>> host = Host::start(options.database, FileStore::IfMissing::fail);
  if (!host) return exit_for(host.error());
  const Result<Json> answer = (*host)->run(offline(**host, options));
  if (!answer) {
    explain(options.command, answer.error());
    return exit_for(answer.error());
  }
  return finish_volume(options, *answer);
}

// ---- status

namespace {
void print_status(const Json& status) {
  const auto number = [&](const char* key) { return status.value(key, u64{0}); };
  const auto size = [&](const char* key) { return format_size(number(key)); };
  fmt::print("term {}, manifest {}, up {} s, pid {}\n", number("term"), number("manifest_version"),
             number("uptime_seconds"), number("pid"));
  fmt::print("memory      {} of which page cache {} pages, index {}, layers {} ({})\n",
             size("memory_bytes"), number("cache_pages"), size("index_bytes"), number("layers"),
             size("layer_bytes"));
  fmt::print("not durable {} of at most {}; log objects sealed {}, durable {}\n",
             size("dirty_bytes"), size("dirty_bytes_max"), number("log_sealed"),
             number("log_durable"));
  fmt::print("tables      {}, {} of them at level 0; compactions {}\n", number("tables"),
             number("tables_level0"), number("compactions"));
  fmt::print("written     by clients {}, to the store {}\n",
             size("user_bytes_written"), size("store_bytes_written"));
  fmt::print("flush budget {:.0f} puts; nbd connections {}, requests {}\n",
             status.value("flush_tokens", 0.0), number("nbd_connections"), number("nbd_requests"));
  if (status.contains("s3_requests")) {
    fmt::print("s3          {} requests: {} PUT, {} GET; about {:.4f} dollars since the start\n",
               number("s3_requests"), number("s3_puts"), number("s3_gets"),
               status.value("s3_dollars", 0.0));
  }
  if (const double seconds = status.value("store_failing_seconds", 0.0); seconds > 0) {
    fmt::print("{} unreachable for {:.0f} s, {} waiting: {}\n",
               status.contains("s3_requests") ? "S3" : "STORE", seconds, size("dirty_bytes"),
               status.value("store_error", ""));
  }
}
}  // namespace

Exit run_status(const Options& options) {
  const Result<std::optional<Json>> asked =
      ask_server(control_path(options), {.command = "status"});
  if (!asked) {
    explain("status", asked.error());
    return exit_for(asked.error());
  }
  if (!*asked) {
    fmt::print(stderr, "zerofs: no server for {} runs on this machine\n", options.database.store);
    return Exit::failed;
  }
  const Json& status = **asked;
  if (options.json) {
    fmt::print("{}\n", status.dump(2));
    return Exit::ok;
  }
  try {
    print_status(status);
  } catch (const Json::exception&) {
    return explain_foreign_answer(options);
  }
  return Exit::ok;
}

}  // namespace zerofs::tools
