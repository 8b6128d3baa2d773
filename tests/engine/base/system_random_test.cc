// Goal: the production randomness fills everything it is given, differently each time.
// Method: the end of a large fill holds all byte values, and a thousand numbers never collide.
#include "engine/base/system_random.h"

#include <doctest/doctest.h>

#include <set>

namespace zerofs {
namespace {

TEST_CASE("system randomness fills all it is given and never repeats") {
  SystemRandom random;
  Buffer large(64 * kKiB);
  std::memset(large.data(), 0, large.size());
  random.fill(large);
  std::set<u8> values;
  for (const std::byte byte : large.bytes().last(8 * kKiB)) values.insert(static_cast<u8>(byte));
  CHECK(values.size() == 256);

  std::set<u64> numbers;
  for (int i = 0; i < 1000; ++i) numbers.insert(random.next());
  CHECK(numbers.size() == 1000);
  random.fill({});
}

}  // namespace
}  // namespace zerofs
