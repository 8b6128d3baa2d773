#include "s3/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "s3/ini.h"
#include "s3/shared.h"

namespace zerofs::s3 {

std::optional<std::string> SystemEnvironment::variable(const char* name) const {
  const char* value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return value;
}

std::optional<std::string> SystemEnvironment::file(const std::string& path) const {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

namespace {

// An empty variable is as good as none.
std::optional<std::string> variable(const Environment& environment,
                                    std::initializer_list<const char*> names) {
  for (const char* name : names) {
    std::optional<std::string> value = environment.variable(name);
    if (value && !value->empty()) return value;
  }
  return std::nullopt;
}

Result<> take_url(Config& config, std::string_view url) {
  if (!url.starts_with("s3://")) return invalid("an S3 store is s3://bucket or s3://bucket/prefix");
  url.remove_prefix(5);
  const std::size_t slash = std::min(url.find('/'), url.size());
  config.bucket = url.substr(0, slash);
  std::string_view prefix = url.substr(std::min(slash + 1, url.size()));
  while (prefix.ends_with('/')) prefix.remove_suffix(1);
  config.prefix = prefix;
  const auto is_bucket_character = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  };
  if (config.bucket.empty() || config.bucket.size() > 255 ||
      !std::ranges::all_of(config.bucket, is_bucket_character)) {
    return invalid("a bucket's name has letters, digits, '-', '.' and '_'");
  }
  if (prefix.starts_with('/') || prefix.find("//") != prefix.npos) {
    return invalid("a prefix has no empty parts: s3://bucket/some/prefix");
  }
  if (std::ranges::any_of(prefix, [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    return invalid("a prefix has no control characters");
  }
  // A key has at most 1,024 bytes, and our own names up to 200 of them.
  if (prefix.size() > 800) return invalid("a prefix has at most 800 bytes");
  return {};
}

// The container's endpoint carries our token: only where the AWS tools would send it too.
bool is_trusted_container_uri(const std::string& uri) {
  if (uri.starts_with("https://")) return true;
  for (const char* host :
       {"http://127.0.0.1", "http://localhost", "http://[::1]", "http://169.254.170.2",
        "http://169.254.170.23", "http://[fd00:ec2::23]"}) {
    const std::string_view rest =
        std::string_view(uri).substr(std::min(uri.size(), std::string_view(host).size()));
    if (uri.starts_with(host) && (rest.starts_with('/') || rest.starts_with(':'))) return true;
  }
  return false;
}

Result<> take_container(CredentialOptions& out, const Environment& environment) {
  if (auto relative = variable(environment, {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"})) {
    if (!relative->starts_with('/')) {
      return invalid("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI begins with a '/'");
    }
    out.container_uri = "http://169.254.170.2" + *relative;
  } else if (auto full = variable(environment, {"AWS_CONTAINER_CREDENTIALS_FULL_URI"})) {
    if (!is_trusted_container_uri(*full)) {
      return invalid("AWS_CONTAINER_CREDENTIALS_FULL_URI is https, or http on this machine");
    }
    out.container_uri = *full;
  }
  out.container_token.value =
      variable(environment, {"AWS_CONTAINER_AUTHORIZATION_TOKEN"}).value_or("");
  out.container_token_file =
      variable(environment, {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}).value_or("");
  return {};
}

Result<> take_credentials(CredentialOptions& out, const Options& options,
                          const Environment& environment) {
  out.anonymous = options.anonymous;
  if (options.access_key.has_value() != options.secret_key.has_value()) {
    return invalid("an access key and a secret key go together");
  }
  if (options.access_key) {
    out.access_key = *options.access_key;
    out.secret_key.value = *options.secret_key;
    out.session_token.value = options.session_token.value_or("");
  } else if (!options.profile) {
    // A profile asked for by name wins over keys in the environment.
    out.access_key = variable(environment, {"AWS_ACCESS_KEY_ID"}).value_or("");
    out.secret_key.value = variable(environment, {"AWS_SECRET_ACCESS_KEY"}).value_or("");
    out.session_token.value = variable(environment, {"AWS_SESSION_TOKEN"}).value_or("");
    if (out.access_key.empty() != out.secret_key.empty()) {
      return invalid("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together");
    }
  }
  const std::string home = variable(environment, {"HOME"}).value_or("");
  out.profile = options.profile.value_or(
      variable(environment, {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}).value_or("default"));
  out.credentials_file = variable(environment, {"AWS_SHARED_CREDENTIALS_FILE"})
                             .value_or(home.empty() ? "" : home + "/.aws/credentials");
  out.config_file = variable(environment, {"AWS_CONFIG_FILE"})
                        .value_or(home.empty() ? "" : home + "/.aws/config");
  out.web_identity_token_file = variable(environment, {"AWS_WEB_IDENTITY_TOKEN_FILE"}).value_or("");
  out.role_arn = variable(environment, {"AWS_ROLE_ARN"}).value_or("");
  out.role_session_name = variable(environment, {"AWS_ROLE_SESSION_NAME"}).value_or("zerofs");
  out.sts_endpoint = variable(environment, {"AWS_ENDPOINT_URL_STS"}).value_or("");
  out.metadata = variable(environment, {"AWS_EC2_METADATA_DISABLED"}).value_or("") != "true";
  if (auto endpoint = variable(environment, {"AWS_EC2_METADATA_SERVICE_ENDPOINT"})) {
    while (endpoint->ends_with('/')) endpoint->pop_back();
    out.metadata_endpoint = *endpoint;
  }
  return take_container(out, environment);
}

std::string from_profile(const IniSection* section, const char* key) {
  if (section == nullptr) return "";
  const auto found = section->find(key);
  return found == section->end() ? "" : found->second;
}

}  // namespace

Result<Config> config_from(std::string_view url, const Options& options,
                           const Environment& environment) {
  Config config;
  TRY_VOID(take_url(config, url));
  TRY_VOID(take_credentials(config.credentials, options, environment));
  const Ini ini = parse_ini(environment.file(config.credentials.config_file).value_or(""));
  const IniSection* profile = profile_section(ini, config.credentials.profile);

  config.endpoint =
      options.endpoint.value_or(variable(environment, {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"})
                                    .value_or(from_profile(profile, "endpoint_url")));
  while (config.endpoint.ends_with('/')) config.endpoint.pop_back();
  std::string region =
      options.region.value_or(variable(environment, {"AWS_REGION", "AWS_DEFAULT_REGION"})
                                  .value_or(from_profile(profile, "region")));
  if (!region.empty()) config.region = std::move(region);
  const auto is_region_character = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  };
  if (!std::ranges::all_of(config.region, is_region_character)) {
    return invalid("a region's name has letters, digits and '-'");
  }
  config.ca_file = options.ca_file.value_or(
      variable(environment, {"AWS_CA_BUNDLE"}).value_or(from_profile(profile, "ca_bundle")));
  config.addressing = options.addressing;
  config.payload = options.payload;
  TRY_VOID(place_of(config, config.region));
  return config;
}

std::string canonical(const Config& config) {
  const Result<Url> endpoint = parse_url(config.endpoint);
  return fmt::format("s3://{}/{}@{}", config.bucket, config.prefix,
                     endpoint ? endpoint->authority() : "aws");
}

}  // namespace zerofs::s3
