#include "engine/base/system_random.h"

#include <sodium.h>

namespace zerofs {

SystemRandom::SystemRandom() {
  const int ready = sodium_init();
  INVARIANT(ready >= 0);
}

void SystemRandom::fill(MutableBytes out) {
  if (!out.empty()) randombytes_buf(out.data(), out.size());
}

}  // namespace zerofs
