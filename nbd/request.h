// Parsing of requests: pure and total. The order of the checks is the protocol's and that of the
// servers that clients know: magic, command, read-only, range, flags, capability.
#pragma once

#include <optional>

#include "nbd/wire.h"

namespace zerofs::nbd {

struct ExportState {
  u64 size = 0;
  bool read_only = false;
  bool structured = false;
  bool has_context = false;
};

struct Request {
  Command command{};
  u16 flags = 0;
  u64 cookie = 0;
  u64 offset = 0;
  u32 length = 0;
  bool fua() const { return (flags & kCmdFua) != 0; }
};

struct ParsedRequest {
  Request request;
  Errno error = Errno::ok;  // answer this; nothing of the request is executed
  u32 payload_bytes = 0;    // follow the header, whether or not there is an error
  bool close = false;       // the stream cannot be followed any further
};

// Every 28 bytes give a request that is safe to execute, an error to answer, or the end.
ParsedRequest parse_request(const RequestHeader& header, const ExportState& state);

}  // namespace zerofs::nbd
