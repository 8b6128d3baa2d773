// Every 28 bytes give a request that is safe to execute, an error, or the end.
#include "nbd/request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerofs;
  using namespace zerofs::nbd;
  if (size < sizeof(RequestHeader) + 9) return 0;
  const Bytes input(reinterpret_cast<const std::byte*>(data), size);
  const auto header = struct_from<RequestHeader>(input);
  const u64 export_size = struct_from<Le<u64>>(input.subspan(sizeof header)) >> 1;
  const u8 bits = data[sizeof header + 8];
  const ExportState state{.size = export_size,
                          .read_only = (bits & 1) != 0,
                          .structured = (bits & 2) != 0,
                          .has_context = (bits & 4) != 0};
  const ParsedRequest parsed = parse_request(header, state);
  if (parsed.close || parsed.error != Errno::ok) return 0;
  const Request& request = parsed.request;
  INVARIANT(static_cast<u16>(request.command) <= 7);
  if (request.command != Command::disconnect) {
    INVARIANT(request.offset <= export_size && request.length <= export_size - request.offset);
  }
  const bool changes = request.command == Command::write || request.command == Command::trim ||
                       request.command == Command::write_zeroes;
  INVARIANT(!changes || !state.read_only);
  INVARIANT(parsed.payload_bytes == (request.command == Command::write ? request.length : 0));
  return 0;
}
