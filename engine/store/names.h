// The names that every store accepts (object_store.h).
#pragma once

#include <string_view>

namespace zerofs::store {

constexpr std::size_t kNameBytesMax = 200;

// '/'-separated parts of [a-z0-9._-], none empty, none starting with a dot.
bool is_valid_name(std::string_view name);

}  // namespace zerofs::store
