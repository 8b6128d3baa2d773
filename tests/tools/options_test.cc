// Goal: what the user says about S3 arrives where it is used, by flags and by the configuration
// file, and secrets are not among the flags. Method: argument vectors and files, parsed.
#include "tools/options.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

namespace zerofs::tools {
namespace {

ParseOutcome parse(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return parse_options(static_cast<int>(argv.size()), argv.data());
}

TEST_CASE("S3 by flags") {
  const ParseOutcome parsed = parse({"zerofs",
                                     "store",
                                     "check",
                                     "--store",
                                     "s3://bucket/prefix",
                                     "--s3-endpoint",
                                     "http://127.0.0.1:1",
                                     "--s3-region",
                                     "default",
                                     "--s3-access-key",
                                     "id",
                                     "--s3-secret-key-file",
                                     "/secret",
                                     "--s3-profile",
                                     "work",
                                     "--s3-ca-file",
                                     "/ca.pem",
                                     "--s3-path-style",
                                     "--s3-anonymous",
                                     "--s3-payload",
                                     "signed",
                                     "--s3-price-1000-writes",
                                     "0.01"});
  REQUIRE_FALSE(parsed.exit.has_value());
  CHECK(parsed.options.command == "store check");
  CHECK(parsed.options.database.store == "s3://bucket/prefix");
  const S3Options& s3 = parsed.options.database.s3;
  CHECK(s3.endpoint == "http://127.0.0.1:1");
  CHECK(s3.region == "default");
  CHECK(s3.access_key == "id");
  CHECK(s3.secret_key_file == "/secret");
  CHECK(s3.profile == "work");
  CHECK(s3.ca_file == "/ca.pem");
  CHECK(s3.path_style);
  CHECK_FALSE(s3.virtual_host_style);
  CHECK(s3.anonymous);
  CHECK(s3.payload == "signed");
  CHECK(s3.price_1000_writes == 0.01);
  CHECK(s3.price_1000_reads == 0.0004);
}

TEST_CASE("S3 by the configuration file; flags win") {
  const std::string path = "/tmp/zerofs-options-" + std::to_string(getpid()) + ".toml";
  std::ofstream(path) << "store = \"s3://bucket/prefix\"\ns3-endpoint = \"http://file\"\n"
                         "s3-region = \"file\"\ns3-path-style = true\ns3-price-gb-sent = 0.25\n"
                         "nbd = [\"127.0.0.1:0\"]\nmetrics = \"9100\"\n";
  const ParseOutcome parsed = parse({"zerofs", "serve", "--config", path, "--s3-region", "flag"});
  std::remove(path.c_str());
  REQUIRE_FALSE(parsed.exit.has_value());
  const S3Options& s3 = parsed.options.database.s3;
  CHECK(s3.endpoint == "http://file");
  CHECK(s3.region == "flag");
  CHECK(s3.path_style);
  CHECK(s3.price_gb_sent == 0.25);
  CHECK(parsed.options.serve.metrics == "9100");
}

TEST_CASE("what S3 options refuse") {
  for (const char* wrong : {"--s3-secret-key=x", "--s3-payload=some", "--s3-price-gb-sent=-1"}) {
    CAPTURE(wrong);
    const ParseOutcome parsed = parse({"zerofs", "init", "--store", "s3://b", wrong});
    CHECK(parsed.exit == Exit::usage);
  }
}

}  // namespace
}  // namespace zerofs::tools
