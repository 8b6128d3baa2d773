// Goal: signatures are what AWS computes.
//
// Method: AWS's published examples, letter by letter: the four of "Authenticating Requests: Using
// the Authorization Header (Signature Version 4)" in the S3 API reference, and three of the
// aws-sig-v4-test-suite. That a server agrees on other requests is real_server_test.cc's business.
#include "s3/sign.h"

#include <doctest/doctest.h>

#include "s3/uri.h"

namespace zerofs::s3 {

namespace {

using namespace std::chrono;

const Credentials kExample{.access_key = "AKIAIOSFODNN7EXAMPLE",
                           .secret_key = {"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}};
const WallTime kExampleTime{sys_days(2013y / 5 / 24).time_since_epoch()};
constexpr const char* kEmptyHash =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

std::string signature_of(const std::string& authorization) {
  const std::size_t at = authorization.find("Signature=");
  REQUIRE(at != std::string::npos);
  return authorization.substr(at + 10);
}

struct Example {
  const char* method;
  const char* path;
  const char* query;
  std::string hash;
  std::vector<Header> headers;  // besides host, x-amz-date and x-amz-content-sha256
  const char* signature;
};

}  // namespace

TEST_CASE("sign: the examples of the S3 API reference") {
  const std::string body_hash = hex(sha256(bytes_of("Welcome to Amazon S3.")));
  CHECK(body_hash == "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
  const std::vector<Example> examples = {
      {"GET",
       "/test.txt",
       "",
       kEmptyHash,
       {{"range", "bytes=0-9"}},
       "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
      {"PUT",
       "/test%24file.text",
       "",
       body_hash,
       {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
       "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
      {"GET",
       "/",
       "lifecycle=",
       kEmptyHash,
       {},
       "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
      {"GET",
       "/",
       "max-keys=2&prefix=J",
       kEmptyHash,
       {},
       "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
  };
  Signer signer;
  for (const Example& example : examples) {
    CAPTURE(example.path);
    std::vector<Header> headers = example.headers;
    headers.push_back({"host", "examplebucket.s3.amazonaws.com"});
    headers.push_back({"x-amz-date", amz_date(kExampleTime)});
    headers.push_back({"x-amz-content-sha256", example.hash});
    const std::string authorization =
        signer.authorization({.method = example.method,
                              .path = example.path,
                              .query = example.query,
                              .payload_hash = example.hash},
                             headers, kExample, "us-east-1", kExampleTime);
    CHECK(signature_of(authorization) == example.signature);
    CHECK(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/"
                                  "us-east-1/s3/aws4_request,SignedHeaders="));
  }
}

TEST_CASE("sign: the general test suite") {
  const Credentials credentials{.access_key = "AKIDEXAMPLE",
                                .secret_key = {"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}};
  const WallTime time{sys_days(2015y / 8 / 30).time_since_epoch() + 12h + 36min};
  CHECK(amz_date(time) == "20150830T123600Z");
  const std::vector<Example> examples = {
      {"GET",
       "/",
       "",
       kEmptyHash,
       {},
       "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
      {"GET",
       "/",
       "Param1=value1&Param2=value2",
       kEmptyHash,
       {},
       "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
      {"POST",
       "/",
       "",
       kEmptyHash,
       {},
       "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
  };
  Signer signer;
  for (const Example& example : examples) {
    CAPTURE(example.query);
    const std::string authorization =
        signer.authorization({.method = example.method,
                              .path = example.path,
                              .query = example.query,
                              .payload_hash = example.hash,
                              .service = "service"},
                             {{"x-amz-date", amz_date(time)}, {"host", "example.amazonaws.com"}},
                             credentials, "us-east-1", time);
    CHECK(signature_of(authorization) == example.signature);
  }
}

TEST_CASE("sign: a new day, region or secret makes a new key") {
  const ToSign request{.method = "GET", .path = "/", .query = "", .payload_hash = kEmptyHash};
  const std::vector<Header> headers = {{"host", "h"}};
  Signer signer;
  const auto sign = [&](Signer& with, const Credentials& who, const char* region, WallTime when) {
    return signature_of(with.authorization(request, headers, who, region, when));
  };
  Credentials other = kExample;
  other.secret_key.value += "x";
  const std::vector<std::string> signatures = {sign(signer, kExample, "a", kExampleTime),
                                               sign(signer, kExample, "b", kExampleTime),
                                               sign(signer, kExample, "b", kExampleTime + 24h),
                                               sign(signer, other, "b", kExampleTime + 24h)};
  for (std::size_t i = 0; i < signatures.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) CHECK(signatures[i] != signatures[j]);
  }
  Signer fresh;
  CHECK(sign(fresh, other, "b", kExampleTime + 24h) == signatures[3]);
}

TEST_CASE("sign: hashes and canonical queries") {
  CHECK(md5_base64(bytes_of("")) == "1B2M2Y8AsgTpgAmY7PhCfg==");
  CHECK(
      hex(hmac_sha256(bytes_of("key"), bytes_of("The quick brown fox jumps over the lazy dog"))) ==
      "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
  // Sorted after escaping, by name and then by value.
  CHECK(canonical_query({{"prefix", "a/b c"}, {"max-keys", "2"}, {"a", "ü"}, {"a", "+"}}) ==
        "a=%2B&a=%C3%BC&max-keys=2&prefix=a%2Fb%20c");
}

TEST_CASE("uri: escaping of every byte, and back") {
  std::string all;
  for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
  const std::string escaped = escape(all, Slash::escape);
  CHECK(unescape(escaped, Plus::keep) == all);
  CHECK(unescape(escaped, Plus::is_space) == all);
  CHECK(escape("a/b c+d~", Slash::keep) == "a/b%20c%2Bd~");
  CHECK(escape("a/b", Slash::escape) == "a%2Fb");
  CHECK(unescape("a+b%2b%", Plus::is_space) == "a b+%");
  CHECK(unescape("%zz%4", Plus::keep) == "%zz%4");
}

TEST_CASE("uri: endpoints") {
  CHECK(parse_url("http://127.0.0.1:7480")->authority() == "127.0.0.1:7480");
  CHECK(parse_url("https://s3.example.com:443/")->authority() == "s3.example.com");
  CHECK(parse_url("http://[::1]:80")->authority() == "[::1]");
  CHECK(parse_url("http://[::1]:8080")->text() == "http://[::1]:8080");
  for (const char* wrong : {"", "s3.example.com", "ftp://a", "http://", "http://a:0", "http://a:x",
                            "http://a:70000", "http://a/b", "http://user@a", "http://a b"}) {
    CAPTURE(wrong);
    CHECK_FALSE(parse_url(wrong));
  }
}

}  // namespace zerofs::s3
