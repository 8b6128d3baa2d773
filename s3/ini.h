// The format of ~/.aws/config and ~/.aws/credentials: [sections] of key = value lines, comments
// after '#' or ';' at the start of a line, nested values by indentation (skipped).
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace zerofs::s3 {

using IniSection = std::map<std::string, std::string, std::less<>>;
using Ini = std::map<std::string, IniSection, std::less<>>;

// Total: lines that mean nothing are skipped, as the AWS tools do. Section names have single
// spaces; keys are in lower case.
Ini parse_ini(std::string_view text);

// The section of a profile: "name" in the credentials file, "profile name" in the config file,
// where the default profile has either.
const IniSection* profile_section(const Ini& ini, std::string_view profile);

}  // namespace zerofs::s3
