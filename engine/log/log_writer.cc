#include "engine/log/log_writer.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/base/mutant.h"
#include "engine/store/backoff.h"

namespace zerofs::log {

namespace {
constexpr u32 kTriesBeforeLook = 3;
// A batch this small is sealed on the reactor: the hand-off to a worker would cost more.
constexpr std::size_t kInlinePagesMax = 2;
// Fresh memory of this size costs more in page faults than in sealing.
constexpr std::size_t kSpareBytesMin = kMiB;
}  // namespace

LogWriter::LogWriter(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
                     const cache::PageSlab& slab, Listener& listener, Options options)
    : runtime_(runtime),
      store_(store),
      keys_(keys),
      slab_(slab),
      listener_(listener),
      options_(options),
      window_(runtime.executor),
      gate_(runtime.executor) {}

void LogWriter::start(Term term, const format::Salt& salt) {
  term_ = term;
  salt_ = salt;
}

void LogWriter::submit(std::unique_ptr<SealedBatch> batch) {
  INVARIANT(batch->seq == sealed_end());
  SealedBatch& taken = *batch;
  batches_.push_back(std::move(batch));
  if (stopping()) return;
  gate_.spawn(process(taken));
}

void LogWriter::make_urgent() {
  for (auto& batch : batches_) batch->urgent = true;
}

void LogWriter::abandon() {
  abandoned_ = true;
  window_.wake_all();
}

Task<> LogWriter::close() {
  return gate_.close();
}

Task<> LogWriter::process(SealedBatch& batch) {
  co_await seal(batch);
  co_await upload(batch);
  if (batch.uploaded) advance();
  co_return {};
}

// One step of a seal per job, so that urgent work gets in between.
struct LogWriter::SealJob final : Job {
  SealJob(LogWriter& writer, SealInput input, SealedBatch& batch)
      : writer(writer), batch(batch), sealer(input, batch) {}
  bool await_ready() {
    if (batch.pages.size() > kInlinePagesMax || !batch.urgent) return false;
    while (!sealer.step()) {
    }
    return true;
  }
  void await_suspend(std::coroutine_handle<> waiting) {
    handle = waiting;
    submit();
  }
  void await_resume() {}

  // Bulk work yields to everybody, but not when writers wait for room and the store for bytes.
  void submit() {
    const bool first = batch.urgent || (writer.listener_.is_pressed() && writer.uploading_ < 2);
    writer.runtime_.executor.submit(*this, first ? Priority::urgent : Priority::bulk);
  }
  void run() override { done = sealer.step(); }
  void finish() override {
    if (done) {
      handle.resume();
    } else {
      submit();
    }
  }

  LogWriter& writer;
  SealedBatch& batch;
  Sealer sealer;
  std::coroutine_handle<> handle;
  bool done = false;
};

Buffer LogWriter::take_buffer(std::size_t bytes) {
  if (bytes >= kSpareBytesMin && !spare_.empty()) {
    Buffer buffer = std::move(spare_.back());
    spare_.pop_back();
    buffer.resize(0);
    return buffer;
  }
  return Buffer();
}

void LogWriter::keep_buffer(Buffer buffer) {
  if (buffer.capacity() < kSpareBytesMin) return;
  if (spare_.size() < options_.uploads_max + kSealedAhead) spare_.push_back(std::move(buffer));
}

Task<> LogWriter::seal(SealedBatch& batch) {
  while (batch.seq >= durable_end_ + options_.uploads_max + kSealedAhead && !stopping()) {
    co_await window_.wait();
  }
  if (stopping()) co_return {};
  batch.object = take_buffer(batch.pages.size() * kPageBytes);
  SealInput input{.keys = keys_,
                  .slab = slab_,
                  .salt = salt_,
                  .term = term_,
                  .durable_end = durable_end_,
                  .compression = listener_.compression_now()};
  runtime_.random.fill(input.random);
  SealJob job(*this, input, batch);
  co_await job;
  co_return {};
}

Task<> LogWriter::upload(SealedBatch& batch) {
  while (batch.seq >= durable_end_ + options_.uploads_max && !stopping() &&
         !MUTANT(uploads_unbounded)) {
    co_await window_.wait();
  }
  if (stopping()) co_return {};

  const std::string name = format::log_name(term_, Seq{batch.seq});
  store::Backoff backoff(options_.retry_min, options_.retry_max, runtime_.random);
  if (uploading_++ == 0) {
    measured_from_ = runtime_.clock.now();
    measured_bytes_ = 0;
  }
  const u64 object_bytes = batch.object.size();
  uploading_bytes_ += object_bytes;
  for (u32 tries = 1; !stopping(); ++tries) {
    Result<> created = co_await as_result(store_.create(name, batch.object, store::Class::log));
    if (created) {
      batch.uploaded = true;
      break;
    }
    const Code code = created.error().code();
    if ((MUTANT(failed_put_is_success) && code == Code::retry) ||
        (MUTANT(believe_412) && code == Code::precondition)) {
      batch.uploaded = true;
      break;
    }
    if (MUTANT(reseal_on_retry)) co_await seal(batch);
    if (code == Code::precondition || tries % kTriesBeforeLook == 0) {
      Result<Look> seen = co_await as_result(look(batch.seq, batch.object));
      if (seen && *seen == Look::own && !MUTANT(fear_412)) {
        batch.uploaded = true;
        break;
      }
      if (seen && (*seen == Look::foreign || MUTANT(fear_412))) {
        spdlog::error("log: slot {} holds another writer's object; this server is fenced", name);
        if (!fenced_) {
          fenced_ = true;
          window_.wake_all();
          listener_.log_fenced();
        }
        break;
      }
    }
    ++counters_.retries;
    last_error_ = created.error();
    if (!failing_since_) {
      failing_since_ = runtime_.clock.now();
      spdlog::warn("log: cannot write {}: {} ({}, {}); retrying", name, last_error_.text(),
                   code_name(code), last_error_.id());
    }
    co_await sleep_for(runtime_, backoff.next());
  }
  --uploading_;
  uploading_bytes_ -= object_bytes;
  if (batch.uploaded) {
    if (failing_since_) {
      spdlog::info("log: the store takes writes again");
      failing_since_.reset();
    }
    note_uploaded(batch.object.size());
    ++counters_.objects;
    counters_.bytes += batch.object.size();
    keep_buffer(std::move(batch.object));
    batch.object = Buffer();
  }
  co_return {};
}

// What occupies a slot of ours is our own object, or a fence, or the object of another process that
// has our term (a virtual machine that was resumed beside itself). The latter two prove themselves.
// Anything else is bytes that were damaged on their way: it says nothing, and the caller looks
// again.
Task<LogWriter::Look> LogWriter::look(u64 seq, Bytes own) {
  const std::string name = format::log_name(term_, Seq{seq});
  const u64 bytes_max = std::max<u64>(own.size() + 1, format::kFenceBytesMax);
  Result<store::Tail> tail =
      co_await as_result(store_.read_suffix(name, bytes_max, store::Class::log));
  if (!tail) {
    if (tail.error().code() == Code::not_found) co_return Look::missing;
    co_return std::unexpected(tail.error());
  }
  const bool same = tail->object_bytes == own.size() && tail->bytes.size() == own.size() &&
                    std::equal(own.begin(), own.end(), tail->bytes.data());
  if (same) co_return Look::own;
  const Result<format::Fence> fence = format::decode_fence(keys_, tail->bytes, term_, Seq{seq});
  if (fence) co_return Look::foreign;
  format::ObjectCipher cipher(keys_, salt_, name);
  const Result<format::LogFooter> footer =
      format::decode_log_footer(cipher, tail->object_bytes, tail->bytes, term_, Seq{seq});
  if (footer) {
    const Bytes seen_end = tail->bytes.bytes().last(format::kLogTailBytes);
    const bool own_footer = std::ranges::equal(seen_end, own.last(format::kLogTailBytes));
    if (!own_footer) co_return Look::foreign;
  }
  spdlog::error("log: slot {} holds neither our object nor a fence: damaged on its way", name);
  co_return corrupt("log: a look at a slot came back damaged", seq);
}

void LogWriter::advance() {
  // After the fence was seen nothing of this term may be acknowledged: the successor's replay has
  // ended below it.
  while (!batches_.empty() && batches_.front()->uploaded && !fenced_) {
    std::unique_ptr<SealedBatch> batch = std::move(batches_.front());
    batches_.pop_front();
    ++durable_end_;
    listener_.batch_durable(*batch);
  }
  window_.wake_all();
}

void LogWriter::note_uploaded(u64 bytes) {
  measured_bytes_ += bytes;
  const Instant now = runtime_.clock.now();
  const double seconds = std::chrono::duration<double>(now - measured_from_).count();
  // Small objects measure latency, not bandwidth; short stretches measure noise; and when the first
  // of several ends, most of what the others have sent is not counted yet.
  if (seconds < 0.25 || measured_bytes_ < std::max(8 * kMiB, 2 * uploading_bytes_)) return;
  const double rate = static_cast<double>(measured_bytes_) / seconds;
  upload_rate_ = upload_rate_ == 0 ? rate : 0.75 * upload_rate_ + 0.25 * rate;
  measured_bytes_ = 0;
  measured_from_ = now;
}

}  // namespace zerofs::log
