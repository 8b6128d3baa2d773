// Whatever a client of the control socket sends, the server answers it or says what is wrong.
#include "tools/control_request.h"

#include <doctest/doctest.h>

using namespace zerofs;
using namespace zerofs::tools;

TEST_CASE("control request: what a command sends comes back") {
  const ControlRequest all{
      .command = "volume resize", .name = "däta", .size = ~u64{0}, .shrink = true};
  for (const ControlRequest& request : {all, ControlRequest{.command = "status"}}) {
    const Result<ControlRequest> parsed = parse_control_request(json_of(request).dump());
    REQUIRE(parsed.has_value());
    CHECK(*parsed == request);
  }
}

TEST_CASE("control request: other types, other members and other texts are refused") {
  for (const char* text :
       {"", "5", "[1]", "null", "{", "{}", R"({"command": ""})", R"({"command": 5})",
        R"({"command": null})", R"({"command": "status", "name": 7})",
        R"({"command": "status", "name": {}})", R"({"command": "status", "size": -5})",
        R"({"command": "status", "size": 1e30})", R"({"command": "status", "size": "1"})",
        R"({"command": "status", "shrink": "yes"})", R"({"command": "status", "force": true})",
        "{\"command\": \"\xff\"}"}) {
    CAPTURE(text);
    CHECK(!parse_control_request(text).has_value());
  }
}
