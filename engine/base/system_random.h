// The production Random: the kernel's generator through libsodium.
#pragma once

#include "engine/base/runtime.h"

namespace zerofs {

class SystemRandom final : public Random {
 public:
  SystemRandom();  // aborts when the system has no randomness: nothing could be encrypted
  void fill(MutableBytes out) override;
};

}  // namespace zerofs
