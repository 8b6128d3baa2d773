// Where a bucket is and how to talk to it. Plain values; `config_from` gathers them from a URL, the
// command line, the environment and ~/.aws, without touching the network.
#pragma once

#include <optional>
#include <string>

#include "engine/base/runtime.h"

namespace zerofs::s3 {

// A string that no format function prints.
struct Secret {
  std::string value;
  bool empty() const { return value.empty(); }
  friend bool operator==(const Secret&, const Secret&) = default;
};

enum class Addressing : u8 {
  automatic,     // virtual host on AWS, path elsewhere and for buckets with dots
  path,          // endpoint/bucket/key
  virtual_host,  // bucket.endpoint/key
};

enum class Payload : u8 {
  automatic,   // signed over plain HTTP, unsigned over TLS
  signed_,     // x-amz-content-sha256 is the hash of the body
  not_signed,  // UNSIGNED-PAYLOAD
};

// Where credentials may come from, in this order: anonymous, the keys given here, the web identity
// token, the profile's files, the container's endpoint, the instance's metadata service.
struct CredentialOptions {
  bool anonymous = false;
  std::string access_key;
  Secret secret_key;
  Secret session_token;

  std::string profile = "default";
  std::string credentials_file;  // ~/.aws/credentials
  std::string config_file;       // ~/.aws/config

  std::string web_identity_token_file;
  std::string role_arn;
  std::string role_session_name;
  std::string sts_endpoint;  // empty: AWS, in the region of the bucket

  std::string container_uri;         // full
  Secret container_token;            // sent as Authorization
  std::string container_token_file;  // read again at every refresh, before the above

  bool metadata = true;  // ask the instance metadata service when nothing else is there
  std::string metadata_endpoint = "http://169.254.169.254";
};

struct Caps {  // requests in flight
  u32 log = 16;
  u32 foreground = 64;
  u32 bulk = 24;
};

struct Deadlines {
  Duration connect = 1s;
  Duration first_byte = 5s;  // of the answer, after the last byte of the request has left
  Duration stall = 2s;       // without any byte in either direction
  Duration operation = 10s;  // no new attempt begins after this
  Duration idle = 4s;  // connections without use are closed: servers close theirs after 5-20 s
};

struct Hedging {
  double budget = 0.05;  // of the GETs; 0 turns it off
  Duration delay_min = 20ms;
};

struct Prices {                    // dollars; the defaults are S3 Standard, us-east-1
  double per_1000_writes = 0.005;  // PUT, LIST, multipart
  double per_1000_reads = 0.0004;  // GET, HEAD
  double per_gb_received = 0;      // free inside the region
  double per_gb_sent = 0;
};

struct Config {
  std::string bucket;
  std::string prefix;    // without a '/' at either end; empty: the whole bucket
  std::string endpoint;  // http[s]://host[:port]; empty: AWS in `region`
  std::string region = "us-east-1";
  Addressing addressing = Addressing::automatic;
  Payload payload = Payload::automatic;
  std::string ca_file;  // PEM; empty: the system's
  CredentialOptions credentials;
  Caps caps;
  Deadlines deadlines;
  Hedging hedging;
  Prices prices;
};

// What was said on the command line or in zerofs.toml; it wins over the environment.
struct Options {
  std::optional<std::string> endpoint;
  std::optional<std::string> region;
  std::optional<std::string> access_key;
  std::optional<std::string> secret_key;
  std::optional<std::string> session_token;
  std::optional<std::string> profile;
  std::optional<std::string> ca_file;
  bool anonymous = false;
  Addressing addressing = Addressing::automatic;
  Payload payload = Payload::automatic;
};

// The process's surroundings, for tests to replace.
class Environment {
 public:
  virtual ~Environment() = default;
  virtual std::optional<std::string> variable(const char* name) const = 0;
  virtual std::optional<std::string> file(const std::string& path) const = 0;
};

class SystemEnvironment final : public Environment {
 public:
  std::optional<std::string> variable(const char* name) const override;
  std::optional<std::string> file(const std::string& path) const override;
};

// From "s3://bucket/prefix". Variables: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
// AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE,
// AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE, AWS_CA_BUNDLE, AWS_WEB_IDENTITY_TOKEN_FILE,
// AWS_ROLE_ARN, AWS_ROLE_SESSION_NAME, AWS_ENDPOINT_URL_STS, AWS_CONTAINER_*,
// AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT.
// Errors: invalid, with what is wrong in the text.
Result<Config> config_from(std::string_view url, const Options& options,
                           const Environment& environment);

// "s3://bucket/prefix@endpoint", one spelling for one place: what a lock or a check is filed under.
std::string canonical(const Config& config);

}  // namespace zerofs::s3
