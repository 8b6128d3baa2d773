// The only source of chance in the simulation: every stream is forked from the seed of the run, so
// one stream drawing more does not move the others.
#pragma once

#include <array>
#include <initializer_list>

#include "engine/base/runtime.h"

namespace zerofs::sim {

inline u64 mix(u64 x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

class Rng {
 public:
  explicit Rng(u64 seed) : state_(mix(seed)) {}
  u64 next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }
  u64 below(u64 bound) { return bound == 0 ? 0 : next() % bound; }
  u64 between(u64 low, u64 high) { return low + below(high - low + 1); }
  bool chance(u64 one_in) { return one_in != 0 && below(one_in) == 0; }
  bool permille(u64 of_thousand) { return below(1000) < of_thousand; }
  Rng fork() { return Rng(next()); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return *(values.begin() + below(values.size()));
  }
  // Long-tailed, around `typical`.
  Duration latency(Duration typical) {
    const u64 span = static_cast<u64>(typical.count());
    u64 total = span / 2 + below(span);
    if (chance(12)) total += below(30 * span);
    if (chance(200)) total += below(100 * span);
    return Duration(static_cast<i64>(total));
  }

 private:
  u64 state_;
};

}  // namespace zerofs::sim
