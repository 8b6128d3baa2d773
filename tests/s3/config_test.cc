// Goal: a URL, the command line, the environment and ~/.aws together say one thing, and nonsense is
// refused with words.
//
// Method: `config_from` over an environment that is a map.
#include <doctest/doctest.h>

#include <map>

#include "s3/ini.h"
#include "s3/shared.h"

namespace zerofs::s3 {

namespace {

struct FakeEnvironment final : Environment {
  std::map<std::string, std::string> variables;
  std::map<std::string, std::string> files;
  std::optional<std::string> variable(const char* name) const override {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<std::string> file(const std::string& path) const override {
    const auto found = files.find(path);
    return found == files.end() ? std::nullopt : std::optional(found->second);
  }
};

}  // namespace

TEST_CASE("config: bucket and prefix") {
  const FakeEnvironment nothing;
  const auto config = config_from("s3://bucket/some/prefix/", {}, nothing);
  REQUIRE(config);
  CHECK(config->bucket == "bucket");
  CHECK(config->prefix == "some/prefix");
  CHECK(config->region == "us-east-1");
  CHECK(config->endpoint.empty());
  CHECK(canonical(*config) == "s3://bucket/some/prefix@aws");
  CHECK(config_from("s3://bucket", {}, nothing)->prefix.empty());
  CHECK(config_from("s3://bucket/", {}, nothing)->prefix.empty());
  for (const char* wrong : {"s3://", "s3:///x", "file:///x", "s3://b?x", "s3://b//x", "s3://b/x//y",
                            "s3://b@c/x", "s3://b/a\nb", ""}) {
    CAPTURE(wrong);
    CHECK_FALSE(config_from(wrong, {}, nothing));
  }
}

TEST_CASE("config: the command line wins over the environment, that over the profile") {
  FakeEnvironment environment;
  environment.variables = {{"HOME", "/h"},
                           {"AWS_REGION", "from-env"},
                           {"AWS_DEFAULT_REGION", "from-default"},
                           {"AWS_ENDPOINT_URL", "http://env:1"},
                           {"AWS_CA_BUNDLE", "/env.pem"},
                           {"AWS_ACCESS_KEY_ID", "ENVKEY"},
                           {"AWS_SECRET_ACCESS_KEY", "envsecret"},
                           {"AWS_SESSION_TOKEN", "envtoken"}};
  environment.files["/h/.aws/config"] =
      "[default]\nregion = from-profile\nendpoint_url=http://profile:2\n"
      "[profile other]\nregion=other-region\n";
  auto config = config_from("s3://b", {}, environment);
  REQUIRE(config);
  CHECK(config->region == "from-env");
  CHECK(config->endpoint == "http://env:1");
  CHECK(config->ca_file == "/env.pem");
  CHECK(config->credentials.access_key == "ENVKEY");
  CHECK(config->credentials.session_token.value == "envtoken");

  environment.variables["AWS_ENDPOINT_URL_S3"] = "http://s3env:3/";
  CHECK(config_from("s3://b", {}, environment)->endpoint == "http://s3env:3");

  config = config_from(
      "s3://b",
      {.endpoint = "http://flag:4", .region = "flag", .access_key = "K", .secret_key = "S"},
      environment);
  REQUIRE(config);
  CHECK(config->region == "flag");
  CHECK(config->endpoint == "http://flag:4");
  CHECK(config->credentials.access_key == "K");
  CHECK(config->credentials.session_token.empty());

  environment.variables.erase("AWS_REGION");
  CHECK(config_from("s3://b", {}, environment)->region == "from-default");
  environment.variables.erase("AWS_DEFAULT_REGION");
  CHECK(config_from("s3://b", {}, environment)->region == "from-profile");
  // A profile by name: its region, and not the environment's keys.
  config = config_from("s3://b", {.profile = "other"}, environment);
  REQUIRE(config);
  CHECK(config->region == "other-region");
  CHECK(config->credentials.access_key.empty());
}

TEST_CASE("config: what is refused") {
  FakeEnvironment environment;
  CHECK_FALSE(config_from("s3://b", {.access_key = "K"}, environment));
  CHECK_FALSE(config_from("s3://b", {.endpoint = "nonsense"}, environment));
  CHECK_FALSE(config_from("s3://b", {.region = "a/b"}, environment));
  CHECK_FALSE(config_from(
      "s3://b", {.endpoint = "http://127.0.0.1:1", .addressing = Addressing::virtual_host},
      environment));
  environment.variables = {{"AWS_ACCESS_KEY_ID", "K"}};
  CHECK_FALSE(config_from("s3://b", {}, environment));
  environment.variables = {{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://evil.example/"}};
  CHECK_FALSE(config_from("s3://b", {}, environment));
  environment.variables = {{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1.evil/"}};
  CHECK_FALSE(config_from("s3://b", {}, environment));
  environment.variables = {{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/x"}};
  CHECK(config_from("s3://b", {}, environment)->credentials.container_uri ==
        "http://127.0.0.1:9/x");
}

TEST_CASE("config: where requests go") {
  Config config{.bucket = "bucket", .region = "eu-central-1"};
  Place place = *place_of(config, config.region);
  CHECK(place.base.text() == "https://bucket.s3.eu-central-1.amazonaws.com");
  CHECK(place.path == "/");
  config.bucket = "with.dots";
  place = *place_of(config, config.region);
  CHECK(place.base.text() == "https://s3.eu-central-1.amazonaws.com");
  CHECK(place.path == "/with.dots/");
  config.endpoint = "http://s3.localhost:7480";
  place = *place_of(config, config.region);
  CHECK(place.path == "/with.dots/");
  config.addressing = Addressing::virtual_host;
  place = *place_of(config, config.region);
  CHECK(place.base.text() == "http://with.dots.s3.localhost:7480");
}

TEST_CASE("ini: sections, comments, nesting, nonsense") {
  const Ini ini = parse_ini(
      "stray = 1\n# comment\n; comment\n[default]\r\nAws_Access_Key_Id = AK=IA \r\n"
      "s3 =\n  max_concurrent = 5\nnonsense\n[ profile   two ]\nregion=r#1\n[broken\nx=y\n[last]");
  CHECK(ini.at("default").at("aws_access_key_id") == "AK=IA");
  CHECK(ini.at("default").at("s3") == "");
  CHECK_FALSE(ini.at("default").contains("max_concurrent"));
  CHECK(profile_section(ini, "two")->at("region") == "r#1");
  CHECK(profile_section(ini, "default") != nullptr);
  CHECK(profile_section(ini, "none") == nullptr);
  CHECK(ini.at("last").empty());
  CHECK_FALSE(ini.at("profile two").contains("x"));
}

TEST_CASE("governor: bulk pays first, places come back slowly") {
  using store::Class;
  Governor governor(Caps{.log = 16, .foreground = 64, .bulk = 8});
  Instant now{};
  now += 100s;
  governor.slow_down(Class::log, now);
  CHECK(governor.cap(Class::bulk, now) == 4);
  CHECK(governor.cap(Class::log, now) == 16);
  governor.slow_down(Class::foreground, now);  // one complaint of the same moment
  CHECK(governor.cap(Class::bulk, now) == 4);
  now += kHalvingEvery;
  governor.slow_down(Class::log, now);
  CHECK(governor.cap(Class::bulk, now) == 2);
  now += kHalvingEvery;
  governor.slow_down(Class::foreground, now);
  CHECK(governor.cap(Class::bulk, now) == 2);
  CHECK(governor.cap(Class::foreground, now) == 32);
  CHECK(governor.cap(Class::log, now) == 16);
  now += kRecoveryEvery;
  CHECK(governor.cap(Class::foreground, now) == 36);
  CHECK(governor.cap(Class::bulk, now) == 3);
  now += 60s;
  CHECK(governor.cap(Class::foreground, now) == 64);
  CHECK(governor.cap(Class::bulk, now) == 8);
  for (int i = 0; i < 50; ++i) governor.slow_down(Class::log, now += kHalvingEvery);
  CHECK(governor.cap(Class::log, now) == kCapMin);
}

TEST_CASE("hedging: within the budget, after the p95") {
  HedgePolicy policy({.budget = 0.05, .delay_min = 20ms});
  CHECK(policy.spend());
  CHECK_FALSE(policy.spend());
  for (int i = 0; i < 19; ++i) policy.earn();
  CHECK_FALSE(policy.spend());
  policy.earn();
  policy.earn();
  CHECK(policy.spend());
  CHECK_FALSE(policy.spend());
  CHECK(policy.delay() == 250ms);
  for (int i = 0; i < 256; ++i) policy.note_first_byte(i % 10 == 0 ? 90ms : 30ms);
  CHECK(policy.delay() == 90ms);
  for (int i = 0; i < 256; ++i) policy.note_first_byte(2ms);
  CHECK(policy.delay() == 20ms);
}

TEST_CASE("headers: Content-Range and dates are total") {
  const auto range = parse_content_range("bytes 5-9/100");
  REQUIRE(range);
  CHECK(range->first == 5);
  CHECK(range->last == 9);
  CHECK(range->total == 100);
  CHECK(range->satisfied);
  CHECK_FALSE(parse_content_range("bytes */7")->satisfied);
  CHECK(parse_content_range("bytes */7")->total == 7);
  for (const char* wrong :
       {"", "bytes", "bytes 5-4/100", "bytes 0-100/100", "bytes 0-1/*", "bytes -1-2/3",
        "items 0-1/2", "bytes 0-1/2x", "bytes */", "bytes 0-18446744073709551616/9"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_content_range(wrong));
  }
  CHECK(parse_http_date("Fri, 24 May 2013 00:00:00 GMT")->time_since_epoch() ==
        std::chrono::seconds(1369353600));
  CHECK_FALSE(parse_http_date("yesterday"));
}

}  // namespace zerofs::s3
