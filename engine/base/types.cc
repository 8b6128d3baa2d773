#include "engine/base/types.h"

#include <cstdio>

namespace zerofs {

void invariant_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "zerofs: invariant failed: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace zerofs
