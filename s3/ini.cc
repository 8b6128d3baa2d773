#include "s3/ini.h"

#include <algorithm>
#include <cctype>

namespace zerofs::s3 {

namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string with_single_spaces(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (!is_space(c)) {
      out += c;
    } else if (!out.ends_with(' ')) {
      out += ' ';
    }
  }
  return out;
}

}  // namespace

Ini parse_ini(std::string_view text) {
  Ini ini;
  IniSection* section = nullptr;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string_view content = trimmed(line);
    if (content.empty() || content[0] == '#' || content[0] == ';') continue;
    if (content[0] == '[') {
      const std::size_t close = content.find(']');
      section = nullptr;
      if (close == content.npos) continue;
      section = &ini[with_single_spaces(trimmed(content.substr(1, close - 1)))];
      continue;
    }
    const std::size_t equals = content.find('=');
    if (section == nullptr || is_space(line[0]) || equals == content.npos) continue;
    std::string key(trimmed(content.substr(0, equals)));
    std::ranges::transform(key, key.begin(), [](unsigned char c) { return std::tolower(c); });
    (*section)[key] = trimmed(content.substr(equals + 1));
  }
  return ini;
}

const IniSection* profile_section(const Ini& ini, std::string_view profile) {
  auto found = ini.find("profile " + std::string(profile));
  if (found == ini.end()) found = ini.find(profile);
  return found == ini.end() ? nullptr : &found->second;
}

}  // namespace zerofs::s3
