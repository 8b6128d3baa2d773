// Goal: the client and a real S3 server understand each other, in every operation.
//
// Method: the server that ZEROFS_TEST_S3_ENDPOINT, _BUCKET, _ACCESS_KEY, _SECRET_KEY and _REGION
// name; without them these tests are skipped. Each case works below a random prefix and removes
// what it made. The bucket is created when it is missing, if the server lets us.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

#include "engine/store/probe.h"
#include "tests/s3/world.h"

namespace zerofs::s3::test {

namespace {

using store::Class;

std::string variable(const char* name) {
  return SystemEnvironment().variable(name).value_or("");
}

std::optional<Config> real_config(World& world) {
  if (variable("ZEROFS_TEST_S3_ENDPOINT").empty()) {
    MESSAGE("skipped: ZEROFS_TEST_S3_ENDPOINT is not set");
    return std::nullopt;
  }
  const std::string url = fmt::format("s3://{}/unit/{:016x}", variable("ZEROFS_TEST_S3_BUCKET"),
                                      world.runtime().random.next());
  Result<Config> config = config_from(url,
                                      {.endpoint = variable("ZEROFS_TEST_S3_ENDPOINT"),
                                       .region = variable("ZEROFS_TEST_S3_REGION"),
                                       .access_key = variable("ZEROFS_TEST_S3_ACCESS_KEY"),
                                       .secret_key = variable("ZEROFS_TEST_S3_SECRET_KEY")},
                                      SystemEnvironment());
  REQUIRE(config.has_value());
  return std::move(*config);
}

void remove_all(World& world, S3Store& store) {
  const auto names = world.run(store.list("", "", 5000));
  REQUIRE(names.has_value());
  for (std::size_t i = 0; i < names->size(); i += 1000) {
    const auto end =
        names->begin() + static_cast<std::ptrdiff_t>(std::min(names->size(), i + 1000));
    CHECK(world.run(store.remove_many({names->begin() + static_cast<std::ptrdiff_t>(i), end})));
  }
  CHECK(world.run(store.list("", "", 10))->empty());
}

Code code_of(const auto& result) {
  REQUIRE_FALSE(result.has_value());
  return result.error().code();
}

}  // namespace

TEST_CASE("real server: create, read, suffix, size, remove") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  for (const u64 bytes : {u64{1}, u64{4096}, 64 * kKiB, 64 * kKiB + 1, 9 * kMiB}) {
    CAPTURE(bytes);
    const std::string name = fmt::format("log/{:08x}", bytes);
    const Buffer body = pattern(bytes, bytes);
    REQUIRE(world.run(store->create(name, body, Class::log)));
    CHECK(code_of(world.run(store->create(name, body, Class::log))) == Code::precondition);

    Buffer back(bytes);
    REQUIRE(world.run(store->read(name, 0, back, Class::foreground)));
    CHECK(same(back, body));
    Buffer middle(bytes - bytes / 3);
    REQUIRE(world.run(store->read(name, bytes / 3, middle, Class::bulk)));
    CHECK(same(middle, body.bytes().subspan(bytes / 3)));
    Buffer beyond(bytes + 1);
    CHECK(code_of(world.run(store->read(name, 0, beyond, Class::foreground))) == Code::corrupt);
    CHECK(code_of(world.run(store->read(name, bytes, middle, Class::foreground))) == Code::corrupt);

    for (const u64 asked : {u64{0}, u64{1}, bytes / 2 + 1, bytes, bytes + 1000}) {
      const auto tail = world.run(store->read_suffix(name, asked, Class::foreground));
      REQUIRE(tail.has_value());
      CHECK(tail->object_bytes == bytes);
      const u64 wanted = std::min(asked, bytes);
      CHECK(same(tail->bytes, body.bytes().last(wanted)));
    }
    CHECK(world.run(store->size(name, Class::foreground)) == bytes);
  }
  Buffer one(1);
  CHECK(code_of(world.run(store->read("log/none", 0, one, Class::log))) == Code::not_found);
  CHECK(code_of(world.run(store->read_suffix("log/none", 5, Class::log))) == Code::not_found);
  CHECK(code_of(world.run(store->size("log/none", Class::log))) == Code::not_found);
  CHECK(world.run(store->remove("log/none")));
  CHECK(world.run(store->remove("log/00000001")));
  CHECK(world.run(store->remove("log/00000001")));
  CHECK(code_of(world.run(store->size("log/00000001", Class::log))) == Code::not_found);
  remove_all(world, *store);
}

TEST_CASE("real server: an empty object") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  REQUIRE(world.run(store->create("empty", {}, Class::bulk)));
  const auto tail = world.run(store->read_suffix("empty", 10, Class::foreground));
  REQUIRE(tail.has_value());
  CHECK(tail->object_bytes == 0);
  CHECK(tail->bytes.empty());
  Buffer one(1);
  CHECK(code_of(world.run(store->read("empty", 0, one, Class::foreground))) == Code::corrupt);
  remove_all(world, *store);
}

TEST_CASE("real server: names of any bytes, listings with continuation") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  std::vector<std::string> names = {"a b",   "a+b",       "a%20b",       "a&b<c>\"d\"'e'", "ä/ö",
                                    "q?x=1", "h#frag",    "..a",         "back\\slash",    "~tilde",
                                    "x;y,z", "at@colon:", "$!*()[]{}|^`"};
  for (const std::string& name : names) {
    CAPTURE(name);
    REQUIRE(world.run(store->create(name, bytes_of(name), Class::bulk)));
    Buffer back(name.size());
    REQUIRE(world.run(store->read(name, 0, back, Class::bulk)));
    CHECK(text_of(back) == name);
  }
  std::ranges::sort(names);
  const auto listed = world.run(store->list("", "", 100));
  REQUIRE(listed.has_value());
  CHECK(*listed == names);
  CHECK(world.run(store->list("a", "", 100))->size() == 5);
  CHECK(world.run(store->list("", names[4], 3)) ==
        std::vector<std::string>(names.begin() + 5, names.begin() + 8));
  remove_all(world, *store);

  for (u32 i = 0; i < 1203; ++i) {
    REQUIRE(world.run(store->create(fmt::format("many/{:06}", i), {}, Class::bulk)));
  }
  const auto many = world.run(store->list("many/", "many/000001", 1150));
  REQUIRE(many.has_value());
  REQUIRE(many->size() == 1150);
  CHECK(many->front() == "many/000002");
  CHECK(many->back() == "many/001151");
  CHECK(world.run(store->list("many/", "", 5000))->size() == 1203);
  remove_all(world, *store);
}

TEST_CASE("real server: multipart upload, completion and abort") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  const Buffer body = pattern(11 * kMiB);
  const auto upload = world.run(store->begin_upload("big", Class::bulk));
  REQUIRE(upload.has_value());
  std::vector<S3Store::Part> parts;
  for (u32 number : {1U, 2U}) {
    const Bytes piece = number == 1 ? body.bytes().first(6 * kMiB) : body.bytes().subspan(6 * kMiB);
    auto part = world.run(store->upload_part("big", *upload, number, piece, Class::bulk));
    REQUIRE(part.has_value());
    parts.push_back(*part);
  }
  REQUIRE(world.run(store->complete_upload("big", *upload, parts, Class::bulk)));
  Buffer back(body.size());
  REQUIRE(world.run(store->read("big", 0, back, Class::bulk)));
  CHECK(same(back, body));

  const auto dropped = world.run(store->begin_upload("dropped", Class::bulk));
  REQUIRE(dropped.has_value());
  CHECK(world.run(store->upload_part("dropped", *dropped, 1, body, Class::bulk)));
  CHECK(world.run(store->abort_upload("dropped", *dropped)));
  CHECK(world.run(store->abort_upload("dropped", *dropped)));
  CHECK(code_of(world.run(store->upload_part("dropped", *dropped, 2, body, Class::bulk))) ==
        Code::not_found);
  CHECK(code_of(world.run(store->size("dropped", Class::bulk))) == Code::not_found);
  remove_all(world, *store);
}

TEST_CASE("real server: the store's own probe") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  CHECK(world.run(store::probe_thoroughly(world.runtime(), *store)));
  CHECK(world.run(store::probe_at_start(world.runtime(), *store, "here")));
  CHECK(world.run(store::probe_at_start(world.runtime(), *store, "here")));
  remove_all(world, *store);
}

TEST_CASE("real server: one create is one PUT, one read is one GET") {
  World world;
  const std::optional<Config> config = real_config(world);
  if (!config) return;
  const auto store = world.start(*config);
  const Buffer body = pattern(4096);
  REQUIRE(world.run(store->create("one", body, Class::log)));
  Buffer back(4096);
  REQUIRE(world.run(store->read("one", 0, back, Class::foreground)));
  const Counters counters = store->counters();
  CHECK(counters.requests() == 2);
  CHECK(counters.cell(Operation::put, Class::log, Answer::ok).requests == 1);
  CHECK(counters.cell(Operation::get, Class::foreground, Answer::ok).requests == 1);
  CHECK(counters.sent_bytes[0] == 4096);
  CHECK(counters.received_bytes[1] == 4096);
  CHECK(counters.dollars == doctest::Approx(0.0000054));
  remove_all(world, *store);
}

TEST_CASE("real server: wrong keys, wrong bucket") {
  World world;
  std::optional<Config> config = real_config(world);
  if (!config) return;
  Buffer one(1);
  {
    Config wrong = *config;
    wrong.credentials.secret_key.value += "x";
    const auto store = world.start(wrong);
    CHECK(code_of(world.run(store->read("a", 0, one, Class::log))) == Code::denied);
    CHECK(store->counters().requests() == 1);
  }
  {
    Config wrong = *config;
    wrong.bucket += "-does-not-exist-4711";
    const auto store = world.start(wrong);
    CHECK(code_of(world.run(store->read("a", 0, one, Class::log))) == Code::invalid);
    CHECK(code_of(world.run(store->create("a", one, Class::log))) == Code::invalid);
    CHECK(code_of(world.run(store->list("", "", 1))) == Code::invalid);
  }
  {
    Config anonymous = *config;
    anonymous.credentials = {.anonymous = true};
    const auto store = world.start(anonymous);
    CHECK(code_of(world.run(store->create("a", one, Class::log))) == Code::denied);
  }
}

}  // namespace zerofs::s3::test
