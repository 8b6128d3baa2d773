#include "tools/store.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <fstream>

namespace zerofs::tools {

namespace {

bool is_s3(const DatabaseOptions& options) {
  return options.store.starts_with("s3://");
}

// A file that holds nothing but the secret, and perhaps the end of its line.
Result<std::string> read_secret_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line.empty()) {
    fmt::print(stderr, "zerofs: {}: cannot be read, or its first line is empty\n", path);
    return invalid("--s3-secret-key-file cannot be used");
  }
  if (line.back() == '\r') line.pop_back();
  return line;
}

std::optional<std::string> given(const std::string& text) {
  return text.empty() ? std::nullopt : std::optional(text);
}

Result<s3::Config> s3_config(const DatabaseOptions& options) {
  const S3Options& asked = options.s3;
  s3::Options wanted;
  wanted.endpoint = given(asked.endpoint);
  wanted.region = given(asked.region);
  wanted.access_key = given(asked.access_key);
  wanted.profile = given(asked.profile);
  wanted.ca_file = given(asked.ca_file);
  wanted.anonymous = asked.anonymous;
  if (!asked.secret_key_file.empty()) {
    TRY(wanted.secret_key, read_secret_line(asked.secret_key_file));
  }
  if (asked.path_style) wanted.addressing = s3::Addressing::path;
  if (asked.virtual_host_style) wanted.addressing = s3::Addressing::virtual_host;
  if (asked.payload == "signed") wanted.payload = s3::Payload::signed_;
  if (asked.payload == "unsigned") wanted.payload = s3::Payload::not_signed;
  TRY(s3::Config config, s3::config_from(options.store, wanted, s3::SystemEnvironment()));
  // As many as recovery and cold reads keep in flight; S3 answers each at its own pace.
  config.caps.foreground = 128;
  config.prices = {.per_1000_writes = asked.price_1000_writes,
                   .per_1000_reads = asked.price_1000_reads,
                   .per_gb_received = asked.price_gb_received,
                   .per_gb_sent = asked.price_gb_sent};
  return config;
}

}  // namespace

Result<std::string> canonical_store(const DatabaseOptions& options) {
  if (is_s3(options)) {
    TRY(const s3::Config config, s3_config(options));
    return s3::canonical(config);
  }
  TRY(const store::StoreUrl url, store::parse_store_url(options.store));
  return url.canonical;
}

std::string probe_place(const std::string& canonical) {
  return fmt::format("{:016x}", XXH3_64bits(canonical.data(), canonical.size()));
}

Result<OpenStore> open_store(const DatabaseOptions& options, store::FileStore::IfMissing if_missing,
                             Runtime runtime, WorkerPool& threads, Reactor& reactor) {
  OpenStore out;
  if (is_s3(options)) {
    TRY(s3::Config config, s3_config(options));
    out.canonical = s3::canonical(config);
    TRY(std::unique_ptr<s3::S3Store> made, s3::S3Store::start(std::move(config), runtime, reactor));
    out.s3 = made.get();
    out.store = std::move(made);
    return out;
  }
  TRY(const store::StoreUrl url, store::parse_store_url(options.store));
  out.canonical = url.canonical;
  TRY(out.store,
      store::open_store(url, {.if_missing = if_missing}, threads, reactor, runtime.executor));
  return out;
}

}  // namespace zerofs::tools
