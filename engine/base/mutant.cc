#include "engine/base/mutant.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#ifdef ZEROFS_WITH_MUTANTS
namespace zerofs {

namespace {
Mutant chosen() {
  const char* const name = std::getenv("ZEROFS_MUTANT");
  if (name == nullptr || *name == '\0') return Mutant::none;
#define ZEROFS_MUTANT_CHOICE(mutant) \
  if (std::string_view(name) == #mutant) return Mutant::mutant;
  ZEROFS_MUTANTS(ZEROFS_MUTANT_CHOICE)
#undef ZEROFS_MUTANT_CHOICE
  std::fprintf(stderr, "ZEROFS_MUTANT: there is no %s\n", name);
  std::exit(2);
}
}  // namespace

bool is_active(Mutant mutant) {
  static const Mutant active = chosen();
  return mutant == active;
}

}  // namespace zerofs
#endif
