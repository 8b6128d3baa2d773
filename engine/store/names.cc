#include "engine/store/names.h"

namespace zerofs::store {

bool is_valid_name(std::string_view name) {
  if (name.empty() || name.size() > kNameBytesMax) return false;
  char before = '/';
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    const bool dot = c == '.' && before != '/';
    const bool slash = c == '/' && before != '/';
    if (!letter && !dot && !slash) return false;
    before = c;
  }
  return before != '/';
}

}  // namespace zerofs::store
