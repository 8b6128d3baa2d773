#include "tools/options.h"

#include <fmt/format.h>
#include <toml++/toml.h>
#include <CLI/CLI.hpp>

#include <cstdio>

#include "engine/db.h"
#include "tools/sizes.h"

namespace zerofs::tools {

namespace {

constexpr const char* kExamples = R"(
Examples:
  Start from nothing: a database in a directory, one volume, a server on port 10809
    zerofs serve --store file:///var/lib/zerofs --init --key-file /root/zerofs.key \
                 --volume data:10GiB --nbd
  The same in a bucket; keys come from the environment, ~/.aws or the instance
    zerofs serve --store s3://bucket/prefix --init --key-file /root/zerofs.key --volume data:10GiB --nbd
  Attach it (Linux, as root)
    modprobe nbd && nbd-client -b 4096 -name data 127.0.0.1 /dev/nbd0
  Make it larger while it is in use
    zerofs volume resize data 20GiB --store file:///var/lib/zerofs --key-file /root/zerofs.key

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 busy (another owner may be alive),
4 wrong password or key, 5 damaged data.)";

// A value that CLI11 hands over as text and that must be a size.
CLI::Validator size_check() {
  return CLI::Validator(
      [](std::string& text) {
        const Result<u64> size = parse_size(text);
        return size ? std::string() : std::string(size.error().text());
      },
      "SIZE");
}

// Texts of options that need more than CLI11's conversions.
struct Raw {
  std::string memory = "1GiB";
  std::string size;
  std::vector<std::string> volumes;
  std::string config;
};

// Files give what the command line did not. The names are those of the flags.
Result<> apply_config(CLI::App& app, const std::string& path) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    fmt::print(stderr, "zerofs: {}: line {}: {}\n", path, error.source().begin.line,
               error.description());
    return invalid("the configuration file cannot be read");
  }
  for (const auto& [key, value] : table) {
    const std::string name(key.str());
    const auto complain = [&](const char* what) {
      fmt::print(stderr, "zerofs: {}: line {}: {}: {}\n", path, key.source().begin.line, name,
                 what);
      return invalid("the configuration file has an error");
    };
    CLI::Option* option = nullptr;
    for (CLI::App* at = &app; at != nullptr && option == nullptr; at = at->get_parent()) {
      option = at->get_option_no_throw("--" + name);
    }
    if (option == nullptr || name == "config" || name == "help") {
      return complain("there is no such setting for this command (names are those of the flags)");
    }
    if (option->count() != 0) continue;  // the command line wins
    std::vector<std::string> texts;
    const auto add = [&](const toml::node& node) {
      if (const auto text = node.value<std::string>(); node.is_string()) {
        texts.push_back(*text);
      } else if (node.is_floating_point()) {
        texts.push_back(fmt::format("{}", *node.value<double>()));
      } else if (node.is_integer()) {
        texts.push_back(std::to_string(*node.value<i64>()));
      } else if (node.is_boolean()) {
        texts.push_back(*node.value<bool>() ? "true" : "false");
      } else {
        return false;
      }
      return true;
    };
    bool known = true;
    if (const toml::array* array = value.as_array()) {
      for (const toml::node& node : *array) known = add(node) && known;
    } else {
      known = add(value);
    }
    if (!known) return complain("a setting is a text, a number, true or false, or a list of texts");
    try {
      for (std::string& text : texts) option->add_result(text);
      option->run_callback();
    } catch (const CLI::Error& error) {
      return complain(error.what());
    }
  }
  return {};
}

void add_s3_options(CLI::App& app, S3Options& s3) {
  const char* group = "S3 (with --store s3://bucket/prefix)";
  const auto text = [&](const char* name, std::string& value, const char* what) {
    return app.add_option(name, value, what)->group(group);
  };
  text("--s3-endpoint", s3.endpoint,
       "http[s]://host[:port]; else $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, else AWS");
  text("--s3-region", s3.region, "else $AWS_REGION, $AWS_DEFAULT_REGION, the profile");
  text("--s3-access-key", s3.access_key,
       "the key's id; else $AWS_ACCESS_KEY_ID, the profile, web identity, container, instance");
  text("--s3-secret-key-file", s3.secret_key_file,
       "file with the secret key in its first line; else $AWS_SECRET_ACCESS_KEY");
  text("--s3-profile", s3.profile, "of ~/.aws/credentials and ~/.aws/config; else $AWS_PROFILE");
  text("--s3-ca-file", s3.ca_file, "PEM certificates to trust; else $AWS_CA_BUNDLE, the system's");
  CLI::Option* path = app.add_flag("--s3-path-style", s3.path_style, "endpoint/bucket/key in URLs");
  CLI::Option* host = app.add_flag("--s3-virtual-host-style", s3.virtual_host_style,
                                   "bucket.endpoint/key in URLs (default: on AWS only)");
  path->group(group)->excludes(host);
  host->group(group);
  app.add_flag("--s3-anonymous", s3.anonymous, "sign nothing")->group(group);
  text("--s3-payload", s3.payload, "what is signed of bodies: signed over plain HTTP, else not")
      ->check(CLI::IsMember({"automatic", "signed", "unsigned"}))
      ->capture_default_str();
  const auto price = [&](const char* name, double& value, const char* what) {
    app.add_option(name, value, what)
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str()
        ->group(group);
  };
  price("--s3-price-1000-writes", s3.price_1000_writes, "dollars for 1,000 PUTs or LISTs");
  price("--s3-price-1000-reads", s3.price_1000_reads, "dollars for 1,000 GETs or HEADs");
  price("--s3-price-gb-received", s3.price_gb_received, "dollars for 1 GB from S3");
  price("--s3-price-gb-sent", s3.price_gb_sent, "dollars for 1 GB to S3");
}

void add_database_options(CLI::App& app, Options& options, Raw& raw) {
  DatabaseOptions& database = options.database;
  app.add_option(
      "--store", database.store,
      "where the objects are: s3://bucket/prefix, file:///absolute/path or memory://NAME");
  app.add_option("--key-file", database.key_file, "file whose bytes unlock the database");
  app.add_option("--password-file", database.password_file,
                 "file with the password; else $ZEROFS_PASSWORD, else a prompt");
  app.add_option("--control", database.control,
                 "control socket of the server (default: derived from --store)");
  app.add_option("--memory", raw.memory, "all memory that the database may use")
      ->check(size_check())
      ->capture_default_str();
  app.add_flag("--takeover", database.takeover,
               "open although the last owner may be alive; it is fenced and stops");
  app.add_option("--config", raw.config, "TOML file with settings named like the flags; flags win");
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn, error, off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", options.log_format, "text or json, to standard error")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  add_s3_options(app, database.s3);
}

void add_serve_options(CLI::App& app, Options& options, Raw& raw) {
  ServeOptions& serve = options.serve;
  app.add_flag("--nbd{127.0.0.1:10809}", serve.nbd,
               "serve NBD; --nbd=HOST:PORT or --nbd=unix:PATH for another address; repeatable");
  app.add_flag("--init", serve.init,
               "create the database when the store is empty, and the key file when it is missing");
  app.add_option("--volume", raw.volumes,
                 "NAME:SIZE of a volume to create when it is missing; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--default-export", serve.default_export,
                 "the volume that a client gets which names none (default: the only one)");
  app.add_option("--worker-threads", serve.worker_threads,
                 "threads that compress and encrypt (default: one per core)");
  app.add_option("--worker-niceness", serve.worker_niceness, "their niceness")
      ->check(CLI::Range(0, 19))
      ->capture_default_str();
  app.add_option("--metrics", serve.metrics,
                 "HOST:PORT where Prometheus finds the metrics, under /metrics");
  app.add_option("--connections-max", serve.connections_max, "NBD connections at once")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
}

std::optional<std::string> finish(Options& options, const Raw& raw) {
  const Result<u64> memory = parse_size(raw.memory);
  if (!memory) return fmt::format("--memory {}: {}", raw.memory, memory.error().text());
  if (*memory < kMemoryBytesUsersMin || *memory > kMemoryBytesMax) {
    return "--memory must be between 64MiB and 4TiB";
  }
  options.database.memory_bytes = *memory;
  if (options.database.store.empty()) {
    return "--store is required: s3://bucket/prefix or file:///absolute/path (or memory://NAME to "
           "try "
           "things out)";
  }
  if (!options.database.key_file.empty() && !options.database.password_file.empty()) {
    return "give --key-file or --password-file, not both";
  }
  if (!raw.size.empty()) {
    const Result<u64> size = parse_size(raw.size);
    if (!size) return fmt::format("{}: {}", raw.size, size.error().text());
    options.size = *size;
  }
  for (const std::string& text : raw.volumes) {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0) {
      return fmt::format("--volume {}: give NAME:SIZE, as in data:10GiB", text);
    }
    const Result<u64> size = parse_size(std::string_view(text).substr(colon + 1));
    if (!size) return fmt::format("--volume {}: {}", text, size.error().text());
    options.serve.volumes.emplace_back(text.substr(0, colon), *size);
  }
  if (options.command == "serve" && options.serve.nbd.empty()) {
    return "nothing to serve: add --nbd, --nbd=HOST:PORT or --nbd=unix:PATH";
  }
  if (options.command == "volume delete" && !options.yes) {
    return "deleting a volume destroys its data: add --yes if you mean it";
  }
  return {};
}

}  // namespace

Exit exit_for(const Error& error) {
  switch (error.code()) {
    case Code::busy: return Exit::busy;
    case Code::denied: return Exit::denied;
    case Code::corrupt: return Exit::corrupt;
    default: return Exit::failed;
  }
}

ParseOutcome parse_options(int argc, char** argv) {
  ParseOutcome outcome;
  Options& options = outcome.options;
  Raw raw;
  CLI::App app("ZeroFS: S3 is the disk. Block devices on an object store, encrypted, crash-safe.");
  app.footer(kExamples);
  app.set_version_flag("--version", "zerofs " ZEROFS_VERSION);
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "help of all commands");

  const auto command = [&](CLI::App& parent, const std::string& name, const std::string& path,
                           const char* what) {
    CLI::App* sub = parent.add_subcommand(name, what);
    add_database_options(*sub, options, raw);
    sub->callback([&options, path] { options.command = path; });
    return sub;
  };

  CLI::App* serve = command(app, "serve", "serve", "serve the database's volumes");
  add_serve_options(*serve, options, raw);
  command(app, "init", "init", "create an empty database");
  CLI::App* volume = app.add_subcommand("volume", "create, list, resize, delete volumes");
  volume->require_subcommand(1);
  CLI::App* create = command(*volume, "create", "volume create", "create a volume");
  create->add_option("NAME", options.name, "its name")->required();
  create->add_option("SIZE", raw.size, "its size, as in 10GiB")->required()->check(size_check());
  CLI::App* list = command(*volume, "list", "volume list", "list the volumes");
  list->add_flag("--json", options.json, "as JSON");
  CLI::App* info = command(*volume, "info", "volume info", "show one volume");
  info->add_option("NAME", options.name, "its name")->required();
  info->add_flag("--json", options.json, "as JSON");
  CLI::App* resize = command(*volume, "resize", "volume resize", "grow or shrink a volume");
  resize->add_option("NAME", options.name, "its name")->required();
  resize->add_option("SIZE", raw.size, "the new size")->required()->check(size_check());
  resize->add_flag("--shrink", options.shrink, "allow to cut off its end");
  CLI::App* remove = command(*volume, "delete", "volume delete", "delete a volume and its data");
  remove->add_option("NAME", options.name, "its name")->required();
  remove->add_flag("--yes", options.yes, "really");
  CLI::App* change =
      command(app, "change-password", "change-password", "change the password or the key file");
  change->add_option("--new-key-file", options.new_key_file, "the new key file");
  change->add_option("--new-password-file", options.new_password_file,
                     "file with the new password; else $ZEROFS_NEW_PASSWORD, else a prompt");
  CLI::App* store = app.add_subcommand("store", "look at the object store itself");
  store->require_subcommand(1);
  command(*store, "check", "store check",
          "test whether a store keeps the promises that ZeroFS rests on");
  CLI::App* status = command(app, "status", "status", "show what a running server does");
  status->add_flag("--json", options.json, "as JSON");
  app.add_subcommand("help", "show this help")->callback([] { throw CLI::CallForHelp(); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    outcome.exit = code == 0 ? Exit::ok : Exit::usage;
    return outcome;
  }
  if (!raw.config.empty()) {
    CLI::App* chosen = app.get_subcommands().front();
    if (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
    if (!apply_config(*chosen, raw.config)) {
      outcome.exit = Exit::usage;
      return outcome;
    }
  }
  if (const std::optional<std::string> problem = finish(options, raw)) {
    fmt::print(stderr, "zerofs: {}\n", *problem);
    outcome.exit = Exit::usage;
  }
  return outcome;
}

}  // namespace zerofs::tools
