#include "engine/base/result.h"

namespace zerofs {

const char* code_name(Code code) {
  switch (code) {
    case Code::retry: return "retry";
    case Code::not_found: return "not found";
    case Code::precondition: return "exists already";
    case Code::fenced: return "fenced";
    case Code::corrupt: return "corrupt";
    case Code::cancelled: return "cancelled";
    case Code::invalid: return "invalid";
    case Code::no_space: return "no space";
    case Code::denied: return "denied";
    case Code::busy: return "busy";
  }
  return "unknown";
}

}  // namespace zerofs
