// What a command asks of a running server: one JSON object, checked before anybody acts on it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "engine/base/result.h"

namespace zerofs::tools {

using Json = nlohmann::json;

struct ControlRequest {
  std::string command;  // "status", "volume create", …
  std::string name;     // of the volume, where the command takes one
  u64 size = 0;         // bytes
  bool shrink = false;
  friend bool operator==(const ControlRequest&, const ControlRequest&) = default;
};

Json json_of(const ControlRequest& request);

// Total: any text gives a request or `invalid`. Members that are missing have the values above;
// members that are not known here are refused, for the sender expects something of them.
Result<ControlRequest> parse_control_request(std::string_view line);

}  // namespace zerofs::tools
