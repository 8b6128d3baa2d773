#include "engine/log/recovery.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/base/mutant.h"
#include "engine/store/patience.h"

namespace zerofs::log {

namespace {
constexpr u64 kReadsAtOnceMax = 64;
constexpr u32 kListMax = 1000;

std::unexpected<Error> damaged(const std::string& name, Error error) {
  spdlog::error("recovery: log object {} is damaged: {}", name, error.text());
  return std::unexpected(error);
}
}  // namespace

Recovery::Recovery(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
                   u32 uploads_max)
    : runtime_(runtime), store_(store), keys_(keys), uploads_max_(uploads_max) {}

Task<Recovery::Slot> Recovery::read_slot(format::TermRecord record, u64 seq, bool with_layer) {
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
    const Result<format::Fence> fence =
        format::decode_fence(keys_, tail->bytes, term, Seq{seq});
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
  if (!with_layer) co_return std::move(slot);

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

Task<> Recovery::read_one(format::TermRecord record, u64 seq, Slot& slot,
                          std::optional<Error>& error) {
  Result<Slot> read = co_await as_result(read_slot(record, seq, true));
  if (read) {
    slot = std::move(*read);
  } else {
    error = read.error();
  }
  co_return {};
}

// Reads slots.size() slots from `first` on, at once.
Task<> Recovery::read_window(format::TermRecord record, u64 first, std::vector<Slot>& slots) {
  std::vector<std::optional<Error>> errors(slots.size());
  Gate gate(runtime_.executor);
  for (u64 i = 0; i < slots.size(); ++i) {
    gate.spawn(read_one(record, first + i, slots[i], errors[i]));
  }
  co_await gate.close();
  // In order: an error above the end of the log is of no interest to the caller yet.
  for (u64 i = 0; i < slots.size(); ++i) {
    if (errors[i]) co_return std::unexpected(*errors[i]);
    if (slots[i].kind != Slot::Kind::log_object) break;
  }
  co_return {};
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
  Result<> created =
      co_await as_result(store_.create(name, fence, store::Class::foreground));
  if (created) co_return true;
  if (created.error().code() == Code::precondition) co_return MUTANT(believe_412_of_fence);
  // Without an answer the slot is read again by the caller: whatever is there decides.
  spdlog::warn("recovery: no answer creating fence {}: {}", name, created.error().text());
  co_await sleep_for(runtime_, 200ms);
  co_return false;
}

Task<RecoveredLog> Recovery::fence_and_read(format::TermRecord record, Term own_term) {
  RecoveredLog log{.term = record.term,
                   .from = record.replay_from,
                   .end = record.replay_from,
                   .layers = {},
                   .data_bytes = 0};
  u64 window = 4;
  bool ended = false;
  while (!ended) {
    std::vector<Slot> slots(window);
    co_await read_window(record, log.end, slots);
    bool missing = false;
    for (Slot& slot : slots) {
      if (slot.kind == Slot::Kind::log_object) {
        take(log, slot);
        continue;
      }
      ended = slot.kind == Slot::Kind::fence;
      if (MUTANT(replay_past_the_fence) && ended) {
        const Slot orphan = co_await read_slot(record, log.end + 1, true);
        if (orphan.layer != nullptr) log.layers.push_back(orphan.layer);
      }
      missing = !ended;
      break;
    }
    if (missing) {
      ended = co_await create_fence(record.term, log.end, own_term);
      window = 1;  // else: look at what took the slot
    } else {
      window = std::min(window * 2, kReadsAtOnceMax);
    }
  }
  co_await check_above(record, log.end);
  co_return std::move(log);
}

// The fence is at `end`. Objects above it were never acknowledged, unless one of them says that the
// durable prefix had passed the fence, or lies where only a longer prefix lets a writer go.
Task<> Recovery::check_above(format::TermRecord record, u64 end) {
  std::vector<std::string> above = co_await store::list_patiently(
      runtime_, store_, format::log_prefix(record.term), format::log_name(record.term, Seq{end}),
      kListMax);
  for (u64 seq = end + 1; seq < end + uploads_max_; ++seq) {
    const std::string name = format::log_name(record.term, Seq{seq});
    const Slot slot = co_await read_slot(record, seq, false);
    std::erase(above, name);
    if (slot.kind != Slot::Kind::log_object || slot.footer.durable_end <= end) continue;
    spdlog::error("recovery: {} proves that {} was acknowledged, but it is missing", name,
                  format::log_name(record.term, Seq{end}));
    co_return corrupt("recovery: an acknowledged log object is missing", end);
  }
  // What is left of the listing lies W or more above the fence.
  for (const std::string& name : above) {
    if (name <= format::log_name(record.term, Seq{end + uploads_max_ - 1})) continue;
    spdlog::error("recovery: {} lies too far above the end of its log, {}: objects are missing",
                  name, format::log_name(record.term, Seq{end}));
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
  while (log.end < *record.end) {
    std::vector<Slot> slots(std::min(kReadsAtOnceMax, *record.end - log.end));
    co_await read_window(record, log.end, slots);
    for (Slot& slot : slots) {
      if (slot.kind == Slot::Kind::log_object) {
        take(log, slot);
        continue;
      }
      spdlog::error("recovery: log object {} is missing",
                    format::log_name(record.term, Seq{log.end}));
      co_return corrupt("recovery: a log object is missing", log.end);
    }
  }
  co_return std::move(log);
}

}  // namespace zerofs::log
