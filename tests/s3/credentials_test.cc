// Goal: every source of credentials works as AWS documents it, keys are renewed before they expire
// and after a 403, and requests wait for the first ones.
//
// Method: small servers on loopback in the place of STS, the container's endpoint and the instance
// metadata service; files in a temporary directory.
#include "s3/credentials.h"

#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/s3/failing_world.h"

namespace zerofs::s3::test {

using store::Class;

namespace {

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/zerofs-s3-test-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name) << text;
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

// Nothing is configured, and nobody is asked.
CredentialOptions nothing() {
  return {.metadata = false};
}

Result<Credentials> fetch(const CredentialOptions& options) {
  return fetch_credentials(options, "eu-central-1", "");
}

std::string json_keys(const std::string& access_key, const std::string& expiration) {
  return fmt::format(R"({{"Code":"Success","AccessKeyId":"{}","SecretAccessKey":"s","Token":"t",)"
                     R"("Expiration":"{}"}})",
                     access_key, expiration);
}

}  // namespace

TEST_CASE("credentials: none, given, anonymous") {
  CHECK(code_of(fetch(nothing())) == Code::denied);
  CredentialOptions options = nothing();
  options.access_key = "K";
  options.secret_key.value = "S";
  CHECK(fetch(options)->access_key == "K");
  options.anonymous = true;
  CHECK(fetch(options)->anonymous);
}

TEST_CASE("credentials: profiles") {
  const Directory directory;
  CredentialOptions options = nothing();
  options.credentials_file = directory.write(
      "credentials",
      "[default]\naws_access_key_id=D\naws_secret_access_key=d\n"
      "[two]\naws_access_key_id = T\naws_secret_access_key = t/+=\naws_session_token = tok\n");
  options.config_file =
      directory.write("config",
                      "[profile three]\naws_access_key_id=C\naws_secret_access_key=c\n"
                      "[profile four]\nrole_arn=arn\nsource_profile=two\n");
  CHECK(fetch(options)->access_key == "D");
  options.profile = "two";
  CHECK(fetch(options)->secret_key.value == "t/+=");
  CHECK(fetch(options)->session_token.value == "tok");
  options.profile = "three";
  CHECK(fetch(options)->access_key == "C");
  options.profile = "four";
  CHECK(code_of(fetch(options)) == Code::denied);
  options.profile = "five";
  CHECK(code_of(fetch(options)) == Code::denied);
}

TEST_CASE("credentials: web identity") {
  const Directory directory;
  ScriptedServer sts([](const Seen& seen, Connection& connection) {
    CHECK(seen.method == "POST");
    if (seen.body.find("WebIdentityToken=bad") != std::string::npos) {
      return connection.reply(400, "",
                              "<ErrorResponse><Error><Code>InvalidIdentityToken</Code>"
                              "<Message>no</Message></Error></ErrorResponse>");
    }
    CHECK(seen.body ==
          "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3A"
          "role%2Fr&RoleSessionName=session&WebIdentityToken=good.token");
    connection.reply(200, "",
                     "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/"
                     "2011-06-15/\"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>W"
                     "</AccessKeyId><SecretAccessKey>w</SecretAccessKey><SessionToken>wt"
                     "</SessionToken><Expiration>2030-01-02T03:04:05Z</Expiration></Credentials>"
                     "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>");
  });
  CredentialOptions options = nothing();
  options.web_identity_token_file = directory.write("token", "good.token\n");
  options.role_arn = "arn:aws:iam::1:role/r";
  options.role_session_name = "session";
  options.sts_endpoint = sts.endpoint();
  const auto got = fetch(options);
  REQUIRE(got);
  CHECK(got->access_key == "W");
  CHECK(got->session_token.value == "wt");
  CHECK(got->expires == parse_iso_time("2030-01-02T03:04:05Z"));
  options.web_identity_token_file = directory.write("token", "bad");
  CHECK(code_of(fetch(options)) == Code::denied);
  options.web_identity_token_file += "-missing";
  CHECK(code_of(fetch(options)) == Code::retry);
}

TEST_CASE("credentials: container") {
  const Directory directory;
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.header("authorization") != "Basic xyz") return connection.reply(401, "", "no");
    CHECK(seen.path == "/creds");
    connection.reply(200, "", json_keys("C", "2030-01-01T00:00:00Z"));
  });
  CredentialOptions options = nothing();
  options.container_uri = server.endpoint() + "/creds";
  CHECK(code_of(fetch(options)) == Code::denied);
  options.container_token.value = "Basic xyz";
  CHECK(fetch(options)->access_key == "C");
  options.container_token.value = "wrong";
  options.container_token_file = directory.write("token", "Basic xyz\n");
  CHECK(fetch(options)->access_key == "C");
}

TEST_CASE("credentials: instance metadata, version 2") {
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    if (seen.path == "/latest/api/token") {
      CHECK(seen.method == "PUT");
      CHECK(seen.header("x-aws-ec2-metadata-token-ttl-seconds") == "21600");
      return connection.reply(200, "", "TOKEN");
    }
    if (seen.header("x-aws-ec2-metadata-token") != "TOKEN") return connection.reply(401, "", "");
    const std::string roles = "/latest/meta-data/iam/security-credentials/";
    if (seen.path == roles) return connection.reply(200, "", "my-role\n");
    CHECK(seen.path == roles + "my-role");
    connection.reply(200, "", json_keys("M", "2030-01-01T00:00:00Z"));
  });
  CredentialOptions options;
  options.metadata_endpoint = server.endpoint();
  const auto got = fetch(options);
  REQUIRE(got);
  CHECK(got->access_key == "M");
  CHECK(got->session_token.value == "t");
  CHECK(server.seen().size() == 3);
}

TEST_CASE("credentials: answers are parsed totally") {
  CHECK_FALSE(parse_credentials_json("[]"));
  CHECK_FALSE(parse_credentials_json("{\"AccessKeyId\":1}"));
  CHECK_FALSE(parse_credentials_json("{"));
  CHECK_FALSE(parse_assume_role(bytes_of("<x/>")));
  CHECK(parse_iso_time("2013-05-24T00:00:01.123Z")->time_since_epoch() ==
        std::chrono::seconds(1369353601));
  for (const char* wrong : {"", "2013-05-24", "2013-13-24T00:00:00Z", "2013-05-24T00:00:00",
                            "2013-05-24T99:00:00Z", "2013-0a-24T00:00:00Z"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_iso_time(wrong));
  }
}

TEST_CASE("credentials: renewed well before they expire") {
  const WallTime now{std::chrono::seconds(1000000)};
  const auto after = [&](Duration left) { return renew_after({.expires = now + left}, now); };
  CHECK(after(std::chrono::hours(6)) == std::chrono::hours(6) - std::chrono::minutes(5));
  CHECK(after(std::chrono::minutes(6)) == std::chrono::minutes(3));
  CHECK(after(-5s) == 1s);
  CHECK(renew_after({}, now) > std::chrono::hours(24));
}

TEST_CASE("credentials: requests wait for the first keys; a 403 renews them once") {
  World world;
  std::mutex mutex;
  u32 fetched = 0;
  ScriptedServer container([&](const Seen&, Connection& connection) {
    const std::scoped_lock lock(mutex);
    if (++fetched == 1) return connection.reply(503, "", "later");
    connection.reply(200, "", json_keys(fmt::format("KEY{}", fetched), "2099-01-01T00:00:00Z"));
  });
  ScriptedServer server([](const Seen& seen, Connection& connection) {
    CHECK(seen.header("x-amz-security-token") == "t");
    const bool stale = seen.header("authorization").find("Credential=KEY2/") != std::string::npos;
    if (stale && seen.path.ends_with("late")) return connection.reply_error(403, "ExpiredToken");
    if (seen.path.ends_with("never")) return connection.reply_error(403, "AccessDenied");
    connection.reply(200, "ETag: \"t\"\r\n", "");
  });
  Config config = config_for(server.endpoint());
  config.credentials = nothing();
  config.credentials.container_uri = container.endpoint() + "/";
  const auto store = world.start(config);
  REQUIRE(world.run(store->create("early", pattern(9), Class::log)));
  REQUIRE(world.run(store->create("late", pattern(9), Class::log)));
  CHECK(fetched == 3);
  CHECK(code_of(world.run(store->create("never", pattern(9), Class::log))) == Code::denied);
  CHECK(fetched == 4);
  CHECK(server.seen().size() == 5);
  CHECK(store->counters().credential_refreshes == 3);
}

TEST_CASE("credentials: traffic goes on while they are renewed in time") {
  World world;
  std::mutex mutex;
  u32 fetched = 0;
  ScriptedServer container([&](const Seen&, Connection& connection) {
    const std::scoped_lock lock(mutex);
    const auto seconds =
        std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now() + 2s);
    const std::time_t time = std::chrono::system_clock::to_time_t(seconds);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&time));
    connection.reply(200, "", json_keys(fmt::format("KEY{}", ++fetched), text));
  });
  ScriptedServer server(
      [](const Seen&, Connection& connection) { connection.reply(200, "ETag: \"t\"\r\n", ""); });
  Config config = config_for(server.endpoint());
  config.credentials = nothing();
  config.credentials.container_uri = container.endpoint() + "/";
  const auto store = world.start(config);
  u32 written = 0;
  while (store->counters().credential_refreshes < 3) {
    REQUIRE(world.run(store->create("x", pattern(9), Class::log)));
    ++written;
  }
  CHECK(written > 3);
  CHECK(store->counters().requests(Answer::ok) == written);
}

}  // namespace zerofs::s3::test
