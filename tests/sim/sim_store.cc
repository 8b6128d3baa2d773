#include "tests/sim/sim_store.h"

#include <xxhash.h>

#include <algorithm>

#include "engine/format/log_object.h"
#include "engine/store/names.h"
#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {

u64 hash_of(Bytes bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

const char* name_of(SimStore::Kind kind) {
  switch (kind) {
    case SimStore::Kind::create: return "create";
    case SimStore::Kind::read: return "read";
    case SimStore::Kind::read_suffix: return "read_suffix";
    case SimStore::Kind::remove: return "remove";
    case SimStore::Kind::list: break;
  }
  return "list";
}

}  // namespace

// ---- deciding

std::optional<Instant> SimStore::next_at() const {
  if (events_.empty()) return {};
  return events_.front().at;
}

void SimStore::schedule(Instant at, bool is_answer, const std::shared_ptr<Request>& request) {
  events_.push_back({at, rng_.next(), is_answer, request});
  std::push_heap(events_.begin(), events_.end());
}

bool SimStore::unreachable(const Process* from) const {
  return out || std::ranges::find(partitioned, from) != partitioned.end();
}

// A log object or table is sealed once: every offer of a name by a process has the same bytes.
// (Fences and manifests have nonces that are random as a whole.)
void SimStore::witness(const Request& request) {
  if (request.kind != Kind::create) return;
  const bool fence = request.name.starts_with("log/") && request.body->size() < 400 &&
                     format::classify_log_slot(*request.body) == format::LogSlot::fence;
  if (fence || !(request.name.starts_with("log/") || request.name.starts_with("sst/"))) return;
  const std::pair<u64, u64> offer{hash_of(*request.body), request.from->id()};
  const auto [at, first] = offered_.insert({request.name, offer});
  if (!first && at->second.first != offer.first) {
    world_.fail(fmt::format("{} was sealed twice with different bytes", request.name));
  }
}

void SimStore::issue(std::shared_ptr<Request> request) {
  ++tally_.requests;
  witness(*request);
  waiting_.push_back(request);
  decide(request);
}

void SimStore::decide(const std::shared_ptr<Request>& request) {
  const Instant now = request->from->now();
  const Instant arrives = now + rng_.latency(weather.latency / 2);
  const Instant answers = arrives + rng_.latency(weather.latency / 2);
  const Instant gives_up = now + weather.deadline;
  Request& r = *request;
  u64 dice = rng_.below(1000);
  const auto falls_on = [&](u32 share) {
    if (dice < share) return true;
    dice -= share;
    return false;
  };
  const auto answered_with = [&](const char* text) {
    r.answer_now = false;
    r.answer = Error(Code::retry, text);
  };

  r.flips = weather.flip_bit != 0 &&
            rng_.permille(weather.flip_bit * (r.kind == Kind::read_suffix ? 8 : 1));
  r.says_409 = weather.conflict_409 != 0 && rng_.chance(4);
  if (falls_on(weather.fail_before)) {
    r.applies = false;
    answered_with("connection reset before the request");
    schedule(answers, true, request);
  } else if (falls_on(weather.slow_down_503)) {
    r.applies = false;
    answered_with("503 slow down");
    schedule(answers, true, request);
  } else if (falls_on(weather.conflict_409) && r.kind == Kind::create) {
    r.applies = false;
    answered_with("409 conflict");
    schedule(answers, true, request);
  } else if (falls_on(weather.stall)) {
    r.applies = false;
    answered_with("time-out");
    schedule(gives_up, true, request);
  } else if (falls_on(weather.lose_reply)) {
    ++tally_.lost_replies;
    answered_with("the reply is lost");
    schedule(arrives, false, request);
    schedule(rng_.chance(2) ? answers : gives_up, true, request);
  } else if (falls_on(weather.apply_late)) {
    ++tally_.late_effects;
    answered_with("time-out");
    schedule(gives_up, true, request);
    const u64 span = static_cast<u64>(weather.late_max.count());
    const u64 late = rng_.chance(2) ? rng_.below(span) : rng_.below(span / 50);
    schedule(gives_up + Duration(late), false, request);
  } else if (falls_on(weather.deliver_twice)) {
    ++tally_.delivered_twice;
    r.twice = true;
    schedule(arrives, false, request);
    const Instant again = arrives + rng_.latency(weather.latency);
    schedule(again, false, request);
    schedule(std::max(again, answers) + 1us, true, request);
  } else {
    schedule(arrives, false, request);
    schedule(answers, true, request);
  }
}

void SimStore::cut_off(Process& process) {
  std::erase_if(waiting_, [&](const std::shared_ptr<Request>& request) {
    if (request->from != &process) return false;
    request->reply->error = Error(Code::cancelled, "the process is gone");
    process.post(request->reply->waiting);
    request->reply = nullptr;
    request->from = nullptr;
    return true;
  });
  // What has not arrived may be lost with the process, or arrive now or minutes from now.
  for (Event& event : events_) {
    Request& request = *event.request;
    if (request.from != &process && request.from != nullptr) continue;
    request.from = nullptr;
    if (event.is_answer || request.applied || request.orphan) continue;
    request.orphan = true;
    const u64 fate = rng_.below(4);
    if (fate == 0) request.applies = false;
    if (fate == 1) event.at += Duration(rng_.below(static_cast<u64>(weather.late_max.count())));
  }
  std::make_heap(events_.begin(), events_.end());
  std::erase(partitioned, &process);
}

// ---- taking effect

void SimStore::step() {
  std::pop_heap(events_.begin(), events_.end());
  const Event event = std::move(events_.back());
  events_.pop_back();
  Request& request = *event.request;
  world_.note(0x5000 | static_cast<u64>(request.kind) << 4 | (event.is_answer ? 1 : 0));
  if (event.is_answer) {
    answer(request);
  } else {
    apply(request);
  }
}

void SimStore::apply_create(Request& request) {
  const auto [at, created] = objects_.insert({request.name, request.body});
  if (!created) {
    request.result = request.says_409 ? Error(Code::retry, "409, the name exists")
                                      : Error(Code::precondition, "the name exists");
    if (request.says_409) ++tally_.conflicts;
    return;
  }
  ++creates_applied_;
  request.result.reset();
  world_.note(hash_of(*request.body));
}

void SimStore::apply(Request& request) {
  if (!request.applies) return;
  if (request.from != nullptr && unreachable(request.from)) {
    request.answer_now = false;
    request.answer = Error(Code::retry, "the store is unreachable");
    ++tally_.outage_failures;
    return;
  }
  if (request.from == nullptr && out) return;
  request.applied = true;
  ++tally_.effects;
  if (world_.tracing()) {
    world_.trace(fmt::format("store   {} {} from {}", name_of(request.kind), request.name,
                             request.from != nullptr ? static_cast<i64>(request.from->id()) : -1));
  }
  switch (request.kind) {
    case Kind::create: {
      const u64 before = creates_applied_;
      apply_create(request);
      if (creates_applied_ != before && watcher != nullptr) {
        watcher->create_applied(request.from, request.name);
      }
      return;
    }
    case Kind::read:
    case Kind::read_suffix: {
      const auto at = objects_.find(request.name);
      if (at == objects_.end()) {
        request.result = Error(Code::not_found, "no such object");
        return;
      }
      request.body = at->second;
      request.result.reset();
      return;
    }
    case Kind::remove: objects_.erase(request.name); return;
    case Kind::list:
      request.names.clear();
      for (auto at = objects_.lower_bound(request.name);
           at != objects_.end() && at->first.starts_with(request.name) &&
           request.names.size() < request.count_max;
           ++at) {
        if (at->first > request.after) request.names.push_back(at->first);
      }
      return;
  }
}

// ---- answering

void SimStore::answer(Request& request) {
  if (request.reply == nullptr) return;
  Reply& reply = *request.reply;
  Process& to = *request.from;
  const auto at = std::ranges::find(
      waiting_, &request, [](const std::shared_ptr<Request>& held) { return held.get(); });
  std::swap(*at, waiting_.back());
  waiting_.pop_back();
  request.reply = nullptr;

  std::optional<Error> error = request.answer_now ? request.result : request.answer;
  if (!error && !request.applied) error = Error(Code::retry, "time-out");
  if (!error && (request.kind == Kind::read || request.kind == Kind::read_suffix)) {
    const Bytes body = *request.body;
    MutableBytes got;
    if (request.kind == Kind::read) {
      if (request.offset > body.size() || request.out.size() > body.size() - request.offset) {
        error = Error(Code::corrupt, "the object is shorter than it must be");
      } else {
        got = request.out;
        if (!got.empty()) std::memcpy(got.data(), body.data() + request.offset, got.size());
      }
    } else {
      reply.object_bytes = body.size();
      reply.bytes = Buffer::copy_of(body.last(std::min<u64>(request.bytes_max, body.size())));
      got = reply.bytes;
    }
    if (request.flips && !got.empty()) {
      const u64 bit = rng_.below(got.size() * 8);
      got[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      ++tally_.flips;
    }
  }
  reply.error = error;
  reply.names = std::move(request.names);
  if (world_.tracing()) {
    world_.trace(fmt::format("process {} hears of {} {}: {}", to.id(), name_of(request.kind),
                             request.name, error ? error->text() : "ok"));
  }
  to.post(reply.waiting);
}

// ---- the view

void StoreView::Call::await_suspend(std::coroutine_handle<> handle) {
  reply.waiting = handle;
  request->reply = &reply;
  store.issue(std::move(request));
}

std::shared_ptr<SimStore::Request> StoreView::request(SimStore::Kind kind, std::string name) {
  INVARIANT(kind == SimStore::Kind::list || store::is_valid_name(name));
  auto request = std::make_shared<SimStore::Request>();
  request->kind = kind;
  request->from = &process_;
  request->name = std::move(name);
  return request;
}

// A process that was cut off meets a store that lets its coroutines end soon: creates seem to work,
// nothing is ever found.
Task<> StoreView::read(std::string name, u64 offset, MutableBytes out, store::Class) {
  if (process_.cut) co_return fail(Code::not_found, "the process is gone");
  SimStore::Reply reply;
  auto asked = request(SimStore::Kind::read, std::move(name));
  asked->offset = offset;
  asked->out = out;
  co_await Call{store_, std::move(asked), reply};
  if (reply.error) co_return std::unexpected(*reply.error);
  co_return {};
}

Task<store::Tail> StoreView::read_suffix(std::string name, u64 bytes_max, store::Class) {
  if (process_.cut) co_return fail(Code::not_found, "the process is gone");
  SimStore::Reply reply;
  auto asked = request(SimStore::Kind::read_suffix, std::move(name));
  asked->bytes_max = bytes_max;
  co_await Call{store_, std::move(asked), reply};
  if (reply.error) co_return std::unexpected(*reply.error);
  co_return store::Tail{reply.object_bytes, std::move(reply.bytes)};
}

Task<> StoreView::create(std::string name, Bytes body, store::Class klass) {
  if (process_.cut) co_return {};
  SimStore::Reply reply;
  auto asked = request(SimStore::Kind::create, std::move(name));
  asked->body = std::make_shared<const Buffer>(Buffer::copy_of(body));
  const bool log = klass == store::Class::log;
  if (log) ++log_creates_;
  co_await Call{store_, std::move(asked), reply};
  if (log) --log_creates_;
  if (reply.error) co_return std::unexpected(*reply.error);
  co_return {};
}

Task<> StoreView::remove(std::string name) {
  if (process_.cut) co_return {};
  SimStore::Reply reply;
  co_await Call{store_, request(SimStore::Kind::remove, std::move(name)), reply};
  if (reply.error) co_return std::unexpected(*reply.error);
  co_return {};
}

Task<std::vector<std::string>> StoreView::list(std::string prefix, std::string after,
                                               u32 count_max) {
  if (process_.cut) co_return corrupt("the process is gone");
  SimStore::Reply reply;
  auto asked = request(SimStore::Kind::list, std::move(prefix));
  asked->after = std::move(after);
  asked->count_max = count_max;
  co_await Call{store_, std::move(asked), reply};
  if (reply.error) co_return std::unexpected(*reply.error);
  co_return std::move(reply.names);
}

}  // namespace zerofs::sim
