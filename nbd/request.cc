#include "nbd/request.h"

namespace zerofs::nbd {

namespace {

// Flags that a command understands. FUA is accepted everywhere once it is advertised.
std::optional<u16> flags_of(Command command) {
  switch (command) {
    case Command::read: return kCmdFua | kCmdDf;
    case Command::write: return kCmdFua;
    case Command::disconnect: return kCmdFua;
    case Command::flush: return kCmdFua;
    case Command::trim: return kCmdFua;
    case Command::cache: return kCmdFua;
    case Command::write_zeroes: return kCmdFua | kCmdNoHole | kCmdFastZero;
    case Command::block_status: return kCmdFua | kCmdReqOne;
  }
  return {};
}

bool changes_data(Command command) {
  return command == Command::write || command == Command::trim || command == Command::write_zeroes;
}

// Whether the fields name bytes of the export.
bool has_range(Command command) {
  return command != Command::disconnect && command != Command::flush;
}

Errno check(const Request& request, const ExportState& state) {
  const std::optional<u16> known_flags = flags_of(request.command);
  if (!known_flags) return Errno::inval;
  if (changes_data(request.command) && state.read_only) return Errno::perm;
  const bool beyond = request.offset > state.size || request.length > state.size - request.offset;
  if (beyond && has_range(request.command)) {
    const bool writes =
        request.command == Command::write || request.command == Command::write_zeroes;
    return writes ? Errno::nospc : Errno::inval;
  }
  if ((request.flags & ~*known_flags) != 0) return Errno::inval;
  switch (request.command) {
    case Command::read:
      if ((request.flags & kCmdDf) != 0 && !state.structured) return Errno::inval;
      if (request.length > kPayloadBytesMax) {
        if (!state.structured) return Errno::inval;
        if ((request.flags & kCmdDf) != 0) return Errno::overflow;
      }
      return Errno::ok;
    case Command::flush:
      return request.offset != 0 || request.length != 0 ? Errno::inval : Errno::ok;
    case Command::write: return request.length > kPayloadBytesMax ? Errno::inval : Errno::ok;
    case Command::block_status:
      return !state.has_context || request.length == 0 ? Errno::inval : Errno::ok;
    default: return Errno::ok;
  }
}

}  // namespace

ParsedRequest parse_request(const RequestHeader& header, const ExportState& state) {
  ParsedRequest out;
  if (header.magic != kRequestMagic) {
    out.close = true;
    return out;
  }
  out.request = {.command = static_cast<Command>(u16{header.type}),
                 .flags = header.flags,
                 .cookie = header.cookie,
                 .offset = header.offset,
                 .length = header.length};
  if (out.request.command == Command::write) {
    out.payload_bytes = out.request.length;
    if (out.payload_bytes > kPayloadDrainBytesMax) {
      out.close = true;
      return out;
    }
  }
  out.error = check(out.request, state);
  return out;
}

}  // namespace zerofs::nbd
