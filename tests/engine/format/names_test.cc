// Goal: names are pinned, sort as the design needs, and foreign names are not taken for ours.
#include "engine/format/names.h"

#include <doctest/doctest.h>

namespace zerofs::format {

TEST_CASE("names are pinned") {
  CHECK(log_name({0xabc}, {0x123456789a}) == "log/000abc/123456789a");
  CHECK(log_prefix({0xabc}) == "log/000abc/");
  CHECK(segment_name(lsm::log_segment({0xffffff}, {7})) == "log/ffffff/0000000007");
  CHECK(segment_name(lsm::pack_segment({1}, (u64{1} << 39) - 1)) == "pack/000001/7fffffffff");
  CHECK(table_name({{2}, 0x1f}) == "sst/000002/000000001f");
  CHECK(manifest_name(0) == "manifest/ffffffffffffffff");
  CHECK(manifest_name(0x10) == "manifest/ffffffffffffffef");
  CHECK(gone_name(3) == "gone/0000000000000003");
  CHECK(key_slot_name(0xdeadbeef) == "key/deadbeef");
}

TEST_CASE("the newest manifest sorts first, log objects sort by seq") {
  CHECK(manifest_name(256) < manifest_name(255));
  CHECK(manifest_name(~u64{0}) < manifest_name(0));
  CHECK(log_name({1}, {255}) < log_name({1}, {256}));
  CHECK(log_name({1}, {256}) < log_name({2}, {0}));
}

TEST_CASE("names are parsed strictly") {
  for (const u64 version : {u64{0}, u64{1}, u64{0xabcdef}, ~u64{0}}) {
    CHECK(manifest_version_of(manifest_name(version)) == version);
  }
  CHECK(key_slot_of("key/0000000a") == 10);
  for (const char* foreign :
       {"", "manifest/", "manifest/ffffffffffffffe", "manifest/fffffffffffffffff",
        "manifest/FFFFFFFFFFFFFFFE", "manifest/+fffffffffffffff", "manifest/0xffffffffffffff",
        "manifest/ffffffffffffff f", "Manifest/fffffffffffffffe", "key/0000000a"}) {
    CAPTURE(foreign);
    CHECK_FALSE(manifest_version_of(foreign));
  }
  for (const char* foreign : {"key/a", "key/0000000A", "key/0000000g", "key/-000000a", "kex/0000000a"}) {
    CAPTURE(foreign);
    CHECK_FALSE(key_slot_of(foreign));
  }
}

}  // namespace zerofs::format
