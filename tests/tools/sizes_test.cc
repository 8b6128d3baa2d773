// Goal: sizes are read as people write them, and nothing else is.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tools/sizes.h"

#include <doctest/doctest.h>

namespace zerofs::tools {
namespace {

TEST_CASE("sizes") {
  CHECK(*parse_size("4096") == 4096);
  CHECK(*parse_size("10GiB") == 10 * kGiB);
  CHECK(*parse_size("10 gib") == 10 * kGiB);
  CHECK(*parse_size("64K") == 64 * kKiB);
  CHECK(*parse_size("1.5TiB") == kTiB + kTiB / 2);
  CHECK(*parse_size("1TB") == 1'000'000'000'000);
  CHECK(*parse_size("16PiB") == 16 * 1024 * kTiB);
  for (const char* bad : {"", "GiB", "-1", "1XB", "1.5", "20000000TiB", "99999999999999999999",
                          "1GiBB", "1 2", "0x10", "1.12345678G"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_size(bad).has_value());
  }
}

TEST_CASE("sizes are shown exactly where a unit divides them") {
  CHECK(format_size(0) == "0 B");
  CHECK(format_size(10 * kGiB) == "10 GiB");
  CHECK(format_size(kGiB + kGiB / 2) == "1.5 GiB");
  CHECK(format_size(1000) == "1000 B");
}

}  // namespace
}  // namespace zerofs::tools
