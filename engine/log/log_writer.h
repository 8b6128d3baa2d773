// LogWriter: sealed batches become log objects, in parallel, acknowledged as a prefix.
//
// Up to W objects are being uploaded, all with a number in [durable end, durable end + W); the
// batch of number s counts as durable when every number up to s is in the store. So a flush costs
// one PUT, later flushes do not wait for earlier ones to start, and a crash leaves a prefix.
//
// A (term, seq) is always retried with identical bytes. "Exists already" means look: our own bytes
// are a lost reply, a fence says that a newer writer owns the database and that nothing of this
// term may be acknowledged any more. Every other failure is retried for ever with jittered
// back-off (looking as well after a few tries: a store may have applied a create and lost every
// reply). A slot that is missing proves nothing and is simply tried again.
#pragma once

#include <deque>

#include "engine/base/sync.h"
#include "engine/log/seal.h"
#include "engine/store/object_store.h"

namespace zerofs::log {

class LogWriter {
 public:
  // Called on the executor's thread, in order of seq.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void batch_durable(SealedBatch& batch) = 0;
    virtual void log_fenced() = 0;
    virtual format::Compression compression_now() = 0;
    // Whether writers wait, or soon will, for what is sealed to leave.
    virtual bool is_pressed() = 0;
  };
  struct Options {
    u32 uploads_max = 8;
    Duration retry_min = 50ms;
    Duration retry_max = 5s;
  };

  LogWriter(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys,
            const cache::PageSlab& slab, Listener& listener, Options options);
  // The term starts at slot 0.
  void start(Term term, const format::Salt& salt);

  // Takes the batch of the next number; sealing starts at once.
  void submit(std::unique_ptr<SealedBatch> batch);
  // From now on every batch in work is what a flush waits for.
  void make_urgent();

  // Stops retrying: what is not durable stays so. `close` ends when nothing is in progress.
  void abandon();
  Task<> close();

  u64 durable_end() const { return durable_end_; }
  u64 sealed_end() const { return durable_end_ + batches_.size(); }
  bool idle() const { return batches_.empty(); }
  bool fenced() const { return fenced_; }

  // Not yet durable, oldest first.
  const std::deque<std::unique_ptr<SealedBatch>>& batches() const { return batches_; }

  struct Counters {
    u64 objects = 0;
    u64 bytes = 0;
    u64 retries = 0;
  };
  const Counters& counters() const { return counters_; }
  // What the buffers of objects being sealed and uploaded may take, for batches of this size.
  static u64 buffer_bytes_max(const Options& options, u64 batch_bytes) {
    return (options.uploads_max + kSealedAhead) * (batch_bytes + batch_bytes / 64);
  }
  // Bytes of log objects that become durable per second while any upload runs; 0 before it is known.
  double upload_bytes_per_second() const { return upload_rate_; }
  // Since when uploads have been failing, and why; none while they succeed.
  std::optional<Instant> failing_since() const { return failing_since_; }
  Error last_error() const { return last_error_; }

 private:
  struct SealJob;
  enum class Look : u8 { own, foreign, missing };

  Task<> process(SealedBatch& batch);
  Task<> seal(SealedBatch& batch);
  Task<> upload(SealedBatch& batch);
  Task<Look> look(u64 seq, Bytes own);
  void advance();
  void note_uploaded(u64 bytes);
  bool stopping() const { return abandoned_ || fenced_; }

  Buffer take_buffer(std::size_t bytes);
  void keep_buffer(Buffer buffer);

  // Batches sealed beyond those that may be uploaded: enough to keep the uploads busy. The others
  // wait as plain pages, which cost no second copy.
  static constexpr u32 kSealedAhead = 2;

  Runtime runtime_;
  store::ObjectStore& store_;
  const format::DatabaseKeys& keys_;
  const cache::PageSlab& slab_;
  Listener& listener_;
  Options options_;
  Term term_;
  format::Salt salt_{};
  std::deque<std::unique_ptr<SealedBatch>> batches_;
  u64 durable_end_ = 0;
  bool fenced_ = false;
  bool abandoned_ = false;
  Counters counters_;
  double upload_rate_ = 0;
  u64 measured_bytes_ = 0;
  Instant measured_from_{};
  u32 uploading_ = 0;
  u64 uploading_bytes_ = 0;
  std::optional<Instant> failing_since_;
  Error last_error_{Code::retry, ""};
  std::vector<Buffer> spare_;  // buffers of large objects, to be used again
  Event window_;  // the durable end moved, or we are stopping
  Gate gate_;
};

}  // namespace zerofs::log
