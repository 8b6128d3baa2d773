#include "engine/log/recovery.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <deque>

#include "engine/base/mutant.h"
#include "engine/store/patience.h"

namespace zerofs::log {

namespace {
constexpr u64 kReadsAtOnceMin = 32;
constexpr u64 kReadsAtOnceMax = 128;
constexpr u32 kListMax = 1000;

std::unexpected<Error> damaged(const std::string& name, Error error) {
  spdlog::error("recovery: log object {} is damaged: {}", name, error.text());
  return std::unexpected(error);
}
}  // namespace

Recovery::Recovery(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
                   u32 uploads_max)
    : runtime_(runtime), store_(store), keys_(keys), uploads_max_(uploads_max) {}

// Walks up a term's slots: reads many at once, gives them out in order. What is in flight grows
// with what was found, so that a long log takes the time of its bytes, not of its round trips, and
// a short one costs few requests beyond its end.
class Recovery::Walk {
 public:
  Walk(Recovery& recovery, format::TermRecord record, u64 from, u64 end, Want want)
      : recovery_(recovery),
        record_(std::move(record)),
        next_(from),
        end_(end),
        want_(want),
        arrived_(recovery.runtime_.executor),
        gate_(recovery.runtime_.executor) {}

  bool at_end() const { return flights_.empty() && next_ == end_; }

  // Errors: of this slot; those of slots above are of no interest yet.
  Task<Slot> next() {
    while (flights_.size() < window_ && next_ != end_) {
      flights_.push_back(std::make_unique<Flight>());
      gate_.spawn(read(next_++, *flights_.back()));
    }
    while (!flights_.front()->done) co_await arrived_.wait();
    const std::unique_ptr<Flight> flight = std::move(flights_.front());
    flights_.pop_front();
    window_ = std::min(window_ + 2, kReadsAtOnceMax);
    if (flight->error) co_return std::unexpected(*flight->error);
    co_return std::move(flight->slot);
  }

  // Waits for what is in flight; the walk is over.
  Task<> finish() { return gate_.close(); }

 private:
  struct Flight {
    Slot slot;
    std::optional<Error> error;
    bool done = false;
  };

  Task<> read(u64 seq, Flight& flight) {
    Result<Slot> got = co_await as_result(recovery_.read_slot(record_, seq, want_));
    if (got) {
      flight.slot = std::move(*got);
    } else {
      flight.error = got.error();
    }
    flight.done = true;
    arrived_.wake_all();
    co_return {};
  }

  Recovery& recovery_;
  format::TermRecord record_;
  u64 next_;
  u64 end_;
  Want want_;
  u64 window_ = kReadsAtOnceMin;
  std::deque<std::unique_ptr<Flight>> flights_;
  Event arrived_;
  Gate gate_;
};

Task<Recovery::Slot> Recovery::read_slot(format::TermRecord record, u64 seq, Want want) {
  const Term term = record.term;
  const std::string name = format::log_name(term, Seq{seq});
  Slot slot;
  Result<store::Tail> tail = co_await as_result(
      store::read_suffix_patiently(runtime_, store_, name, format::kLogTailGuessBytes,
                                   store::Class::foreground));
  if (!tail) {
    if (tail.error().code() == Code::not_found) co_return std::move(slot);
    co_return std::unexpected(tail.error());
  }
  const Result<format::LogSlot> kind = format::classify_log_slot(tail->bytes);
  if (!kind) co_return damaged(name, kind.error());
  if (*kind == format::LogSlot::fence) {
    const Result<format::Fence> fence = format::decode_fence(keys_, tail->bytes, term, Seq{seq});
    if (!fence) co_return damaged(name, fence.error());
    slot.kind = Slot::Kind::fence;
    co_return std::move(slot);
  }

  format::ObjectCipher cipher(keys_, record.salt, name);
  const Result<format::LogFooter> footer =
      format::decode_log_footer(cipher, tail->object_bytes, tail->bytes, term, Seq{seq});
  if (!footer) co_return damaged(name, footer.error());
  slot.kind = Slot::Kind::log_object;
  slot.footer = *footer;
  if (want == Want::footer) co_return std::move(slot);

  const format::BlobPointer blob = footer->layer;
  if (blob.offset > tail->object_bytes || blob.stored_bytes > tail->object_bytes - blob.offset) {
    co_return damaged(name, Error(Code::corrupt, "log footer: the layer lies outside"));
  }
  const u64 tail_begin = tail->object_bytes - tail->bytes.size();
  Buffer fetched;
  Bytes sealed;
  if (blob.offset >= tail_begin) {
    sealed = tail->bytes.bytes().subspan(blob.offset - tail_begin, blob.stored_bytes);
  } else {
    fetched = Buffer(blob.stored_bytes);
    co_await store::read_patiently(runtime_, store_, name, blob.offset, fetched,
                                   store::Class::foreground);
    sealed = fetched;
  }
  Result<lsm::Layer> layer = format::decode_log_layer(cipher, *footer, sealed);
  if (!layer) co_return damaged(name, layer.error());
  slot.layer = std::make_shared<const lsm::Layer>(std::move(*layer));
  co_return std::move(slot);
}

void Recovery::take(RecoveredLog& log, Slot& slot) {
  ++log.end;
  log.data_bytes += slot.footer.data_bytes;
  log.layers.push_back(std::move(slot.layer));
}

// True when the fence is there (ours), false when something else occupies the slot.
Task<bool> Recovery::create_fence(Term term, u64 seq, Term own_term) {
  if (MUTANT(skip_the_fence)) co_return true;
  const std::string name = format::log_name(term, Seq{seq});
  std::byte nonce[24];
  runtime_.random.fill(nonce);
  const Buffer fence =
      format::encode_fence(keys_, {.term = term, .seq = Seq{seq}, .fenced_by = own_term}, nonce);
  Result<> created = co_await as_result(store_.create(name, fence, store::Class::foreground));
  if (created) co_return true;
  if (created.error().code() == Code::precondition) co_return MUTANT(believe_412_of_fence);
  // Without an answer the slot is read again by the caller: whatever is there decides.
  spdlog::warn("recovery: no answer creating fence {}: {}", name, created.error().text());
  co_await sleep_for(runtime_, 200ms);
  co_return false;
}

Task<Recovery::Slot::Kind> Recovery::take_while_there(Walk& walk, RecoveredLog& log) {
  while (!walk.at_end()) {
    Slot slot = co_await walk.next();
    if (slot.kind != Slot::Kind::log_object) co_return slot.kind;
    take(log, slot);
  }
  co_return Slot::Kind::missing;
}

Task<RecoveredLog> Recovery::fence_and_read(format::TermRecord record, Term own_term) {
  RecoveredLog log{.term = record.term,
                   .from = record.replay_from,
                   .end = record.replay_from,
                   .layers = {},
                   .data_bytes = 0};
  for (;;) {
    Walk walk(*this, record, log.end, UINT64_MAX, Want::layer);
    Result<Slot::Kind> stopped = co_await as_result(take_while_there(walk, log));
    co_await walk.finish();
    const Slot::Kind kind = co_await std::move(stopped);
    if (kind == Slot::Kind::fence) {
      if (MUTANT(replay_past_the_fence)) {
        const Slot orphan = co_await read_slot(record, log.end + 1, Want::layer);
        if (orphan.layer != nullptr) log.layers.push_back(orphan.layer);
      }
      break;
    }
    const bool fenced = co_await create_fence(record.term, log.end, own_term);
    if (fenced) break;  // else: look at what took the slot
  }
  spdlog::info("term {} of an earlier owner ends at log object {}: {} to replay",
               record.term.value, log.end, log.layers.size());
  co_await check_above(record, log.end);
  co_return std::move(log);
}

// The fence is at `end`. Objects above it were never acknowledged, unless one of them says that the
// durable prefix had passed the fence, or lies where only a longer prefix lets a writer go.
Task<> Recovery::check_above(format::TermRecord record, u64 end) {
  const std::vector<std::string> above = co_await store::list_patiently(
      runtime_, store_, format::log_prefix(record.term), format::log_name(record.term, Seq{end}),
      kListMax);
  Walk walk(*this, record, end + 1, end + uploads_max_, Want::footer);
  const Result<> looked = co_await as_result(check_slots_above(walk, record, end));
  co_await walk.finish();
  co_await looked;
  const std::string last = format::log_name(record.term, Seq{end + uploads_max_ - 1});
  for (const std::string& name : above) {
    if (name <= last) continue;
    spdlog::error("recovery: {} lies too far above the end of its log, {}: objects are missing",
                  name, format::log_name(record.term, Seq{end}));
    co_return corrupt("recovery: an acknowledged log object is missing", end);
  }
  co_return {};
}

Task<> Recovery::check_slots_above(Walk& walk, format::TermRecord record, u64 end) {
  for (u64 seq = end + 1; !walk.at_end(); ++seq) {
    const Slot slot = co_await walk.next();
    if (slot.kind != Slot::Kind::log_object || slot.footer.durable_end <= end) continue;
    spdlog::error("recovery: {} proves that {} was acknowledged, but it is missing",
                  format::log_name(record.term, Seq{seq}), format::log_name(record.term, Seq{end}));
    co_return corrupt("recovery: an acknowledged log object is missing", end);
  }
  co_return {};
}

Task<RecoveredLog> Recovery::read_sealed(format::TermRecord record) {
  INVARIANT(record.end.has_value());
  RecoveredLog log{.term = record.term,
                   .from = record.replay_from,
                   .end = record.replay_from,
                   .layers = {},
                   .data_bytes = 0};
  Walk walk(*this, record, log.end, *record.end, Want::layer);
  const Result<Slot::Kind> stopped = co_await as_result(take_while_there(walk, log));
  co_await walk.finish();
  co_await stopped;
  if (log.end != *record.end) {
    spdlog::error("recovery: log object {} is missing",
                  format::log_name(record.term, Seq{log.end}));
    co_return corrupt("recovery: a log object is missing", log.end);
  }
  co_return std::move(log);
}

}  // namespace zerofs::log
