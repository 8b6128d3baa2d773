#include "tools/control_request.h"

namespace zerofs::tools {

Json json_of(const ControlRequest& request) {
  Json json = {{"command", request.command}};
  if (!request.name.empty()) json["name"] = request.name;
  if (request.size != 0) json["size"] = request.size;
  if (request.shrink) json["shrink"] = true;
  return json;
}

Result<ControlRequest> parse_control_request(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return invalid("a request is one JSON object in a line");
  ControlRequest request;
  for (const auto& [key, value] : json.items()) {
    if (key == "command" && value.is_string()) {
      request.command = value.get<std::string>();
    } else if (key == "name" && value.is_string()) {
      request.name = value.get<std::string>();
    } else if (key == "size" && value.is_number_unsigned()) {
      request.size = value.get<u64>();
    } else if (key == "shrink" && value.is_boolean()) {
      request.shrink = value.get<bool>();
    } else {
      return invalid("a request has a text command and name, a whole size, a true or false shrink");
    }
  }
  if (request.command.empty()) return invalid("a request names its command");
  return request;
}

}  // namespace zerofs::tools
