// Errors are values: what the world did wrong, never our own bugs (those are INVARIANTs).
#pragma once

#include <expected>

#include "engine/base/types.h"

namespace zerofs {

// Few, and named for what the caller does next.
enum class Code : u8 {
  retry = 1,     // may work later: time-out, 5xx, 409, interrupted
  not_found,     // the name does not exist
  precondition,  // create-if-absent: the name exists (perhaps by our own lost reply: look)
  fenced,        // a newer writer owns the database; stop
  corrupt,       // authentication or decoding failed; never serve the bytes
  cancelled,     // we are shutting down
  invalid,       // the caller or the user asked for something impossible
  no_space,      // the store or a limit is full
  denied,        // wrong password or key, permissions
  busy,          // somebody else holds it (a live owner); the user decides
};

const char* code_name(Code code);

// Code, static text, one number (an id, an offset, an errno: the text says which). No heap.
class [[nodiscard]] Error {
 public:
  constexpr Error(Code code, const char* text, u64 id = 0) : code_(code), text_(text), id_(id) {}
  Code code() const { return code_; }
  const char* text() const { return text_; }
  u64 id() const { return id_; }

 private:
  Code code_;
  const char* text_;
  u64 id_;
};

template <class T = void>
using Result = std::expected<T, Error>;

// `return corrupt("table footer: magic");` in a function that returns a Result or a Task.
inline std::unexpected<Error> fail(Code code, const char* text, u64 id = 0) {
  return std::unexpected(Error(code, text, id));
}
inline std::unexpected<Error> corrupt(const char* text, u64 id = 0) {
  return fail(Code::corrupt, text, id);
}
inline std::unexpected<Error> invalid(const char* text, u64 id = 0) {
  return fail(Code::invalid, text, id);
}

// Outside coroutines: unwraps, or returns the error from the enclosing function.
#define ZEROFS_CONCAT_(a, b) a##b
#define ZEROFS_CONCAT(a, b) ZEROFS_CONCAT_(a, b)
#define TRY(declaration, expression)                               \
  auto ZEROFS_CONCAT(try_, __LINE__) = (expression);               \
  if (!ZEROFS_CONCAT(try_, __LINE__)) [[unlikely]]                 \
    return std::unexpected(ZEROFS_CONCAT(try_, __LINE__).error()); \
  declaration = std::move(*ZEROFS_CONCAT(try_, __LINE__))
#define TRY_VOID(expression)                    \
  do {                                          \
    auto try_void = (expression);               \
    if (!try_void) [[unlikely]]                 \
      return std::unexpected(try_void.error()); \
  } while (false)

}  // namespace zerofs
