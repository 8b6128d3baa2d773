#include "s3/counters.h"

namespace zerofs::s3 {

const char* name_of(Operation operation) {
  switch (operation) {
    case Operation::get: return "get";
    case Operation::head: return "head";
    case Operation::put: return "put";
    case Operation::remove: return "delete";
    case Operation::remove_many: return "delete_many";
    case Operation::list: return "list";
    case Operation::multipart: return "multipart";
  }
  return "?";
}

const char* name_of(store::Class klass) {
  switch (klass) {
    case store::Class::log: return "log";
    case store::Class::foreground: return "foreground";
    case store::Class::bulk: return "bulk";
  }
  return "?";
}

const char* name_of(Answer answer) {
  switch (answer) {
    case Answer::ok: return "ok";
    case Answer::redirect: return "redirect";
    case Answer::precondition: return "precondition";
    case Answer::refused: return "refused";
    case Answer::slow_down: return "slow_down";
    case Answer::failed: return "failed";
    case Answer::none: return "none";
    case Answer::abandoned: return "abandoned";
  }
  return "?";
}

namespace {
u64 sum(const std::array<Counters::Cell, kAnswers>& cells) {
  u64 total = 0;
  for (const Counters::Cell& cell : cells) total += cell.requests;
  return total;
}
}  // namespace

u64 Counters::requests(Operation operation) const {
  u64 total = 0;
  for (const auto& klass : cells[static_cast<u32>(operation)]) total += sum(klass);
  return total;
}

u64 Counters::requests() const {
  u64 total = 0;
  for (u32 o = 0; o < kOperations; ++o) total += requests(static_cast<Operation>(o));
  return total;
}

u64 Counters::requests(Answer answer) const {
  u64 total = 0;
  for (const auto& operation : cells) {
    for (const auto& klass : operation) total += klass[static_cast<u32>(answer)].requests;
  }
  return total;
}

}  // namespace zerofs::s3
