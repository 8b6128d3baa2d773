// Any bytes as a size, a request on the control socket, or the configuration file of `zerofs
// serve`. The first byte says which.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "engine/base/types.h"
#include "tools/control_request.h"
#include "tools/options.h"
#include "tools/sizes.h"

namespace {

using namespace zerofs;
using namespace zerofs::tools;

void use_config(std::string_view text) {
  static const int file = memfd_create("config", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  INVARIANT(ftruncate(file, 0) == 0);
  INVARIANT(pwrite(file, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  const char* argv[] = {"zerofs", "serve", "--config", path.c_str(), nullptr};
  const ParseOutcome outcome = parse_options(4, const_cast<char**>(argv));
  INVARIANT(outcome.exit || !outcome.options.database.store.empty());
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  stdout = stderr = std::fopen("/dev/null", "w");  // complaints; the fuzzer has its own way out
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    use_config(text);
  } else if (data[0] % 3 == 1) {
    if (const Result<ControlRequest> request = parse_control_request(text)) {
      const Result<ControlRequest> again = parse_control_request(json_of(*request).dump());
      INVARIANT(again && *again == *request);
    }
  } else if (const Result<u64> bytes = parse_size(text)) {
    static_cast<void>(format_size(*bytes));
  }
  return 0;
}
