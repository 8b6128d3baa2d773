// What the user asked for: the command line and the configuration file, parsed and checked.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace zerofs::tools {

// Exit codes, part of the interface.
enum class Exit : int { ok = 0, failed = 1, usage = 2, busy = 3, denied = 4, corrupt = 5 };
Exit exit_for(const Error& error);

// How the bucket of an s3:// store is reached. What is empty here comes from the environment and
// the profile, under AWS's names.
struct S3Options {
  std::string endpoint;
  std::string region;
  std::string access_key;
  std::string secret_key_file;  // secrets are never arguments: every user sees those
  std::string profile;
  std::string ca_file;
  bool path_style = false;
  bool virtual_host_style = false;
  bool anonymous = false;
  std::string payload = "automatic";
  double price_1000_writes = 0.005;  // dollars, S3 Standard
  double price_1000_reads = 0.0004;
  double price_gb_received = 0;
  double price_gb_sent = 0;
};

// Where the database is and how it is unlocked: common to all commands.
struct DatabaseOptions {
  std::string store;
  std::string key_file;
  std::string password_file;
  std::string control;  // socket; empty: derived from the store
  u64 memory_bytes = 1024 * 1024 * 1024;
  bool takeover = false;
  S3Options s3;
};

struct ServeOptions {
  std::vector<std::string> nbd;  // listen addresses
  bool init = false;
  std::vector<std::pair<std::string, u64>> volumes;  // created when they are missing
  std::string default_export;
  u32 worker_threads = 0;    // 0: one per core
  int worker_niceness = 15;  // of work that nobody waits for; there is a thread for urgent work
  u32 connections_max = 256;
  std::string metrics;  // address of the Prometheus endpoint; empty: none
};

struct Options {
  std::string command;  // "serve", "init", "volume create", …, or empty: nothing to do
  DatabaseOptions database;
  ServeOptions serve;
  std::string name;  // volume commands
  std::optional<u64> size;
  bool shrink = false;
  bool yes = false;
  bool json = false;
  std::string new_key_file;  // change-password
  std::string new_password_file;
  std::string log_level = "info";
  std::string log_format = "text";
};

// Parses, or prints help or a usage error and says how to exit.
struct ParseOutcome {
  Options options;
  std::optional<Exit> exit;
};
ParseOutcome parse_options(int argc, char** argv);

}  // namespace zerofs::tools
