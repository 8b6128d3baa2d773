// Any bytes from a client during the handshake: no crash, no runaway, and what is consumed is never
// more than what was offered.
#include "nbd/negotiation.h"

namespace {

struct TwoExports final : zerofs::nbd::ExportDirectory {
  std::optional<zerofs::nbd::ExportView> find(std::string_view name) override {
    if (name.empty() || name == "data") return view("data");
    if (name == "other") return view("other");
    return {};
  }
  std::vector<zerofs::nbd::ExportView> list() override { return {view("data"), view("other")}; }
  static zerofs::nbd::ExportView view(const char* name) {
    return {.name = name, .description = "x", .size = 1 << 30, .read_only = false};
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  TwoExports exports;
  nbd::Negotiation negotiation(exports);
  std::vector<std::byte> out;
  negotiation.greet(out);
  // Offered in two parts, so that messages are cut anywhere.
  const Bytes input(reinterpret_cast<const std::byte*>(data), size);
  std::size_t at = 0;
  for (const std::size_t end : {size / 2, size}) {
    std::size_t used = 0;
    const auto state = negotiation.feed(input.subspan(at, end - at), used, out);
    INVARIANT(used <= end - at);
    at += used;
    if (state != nbd::Negotiation::State::more) break;
  }
  INVARIANT(out.size() < 64 * 1024 * 1024);
  return 0;
}
