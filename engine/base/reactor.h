// Reactor: the thread that a database and all its sessions live on. One io_uring
// (SINGLE_ISSUER, DEFER_TASKRUN), timers, coroutines that are ready, messages from other threads.
//
// A turn: submit what was prepared and take the completions; call each one's IoOp; fire due
// timers; finish delivered jobs; resume posted coroutines; then call each queued TurnHook once.
// Batching comes from that last step: a connection queues itself when it has something to send, so
// all replies that became ready in a turn leave in one send.
//
// Before it sleeps, the reactor polls its ring for up to `spin` if the last requests came 1 to 4 at
// a time and no worker job waits for a core: at queue depth 1 a wake-up costs more than the
// request, at depth 32 the wait gathers the next batch.
//
// References: io_uring_setup(2), io_uring_enter(2); DESIGN section 12.
#pragma once

#include <liburing.h>

#include "engine/base/poll_judge.h"
#include "engine/base/sync.h"
#include "engine/base/worker_pool.h"

namespace zerofs {

// One operation in the ring. It must stay in place until `complete` was called; for a multishot
// operation (flags & IORING_CQE_F_MORE) `complete` is called again.
struct IoOp {
  virtual ~IoOp() = default;
  // `result` as in the CQE: a count, a descriptor or a negative errno.
  virtual void complete(i32 result, u32 flags) = 0;
};

// Must not die while it is queued.
struct TurnHook {
  virtual ~TurnHook() { INVARIANT(!queued); }
  virtual void end_of_turn() = 0;
  bool queued = false;  // for the reactor
};

class Reactor final : public Executor, public Clock, public Mailbox {
 public:
  struct Options {
    u32 submission_entries = 1024;
    u32 completion_entries = 16384;
    Duration spin = 30us;
  };
  // `workers` serves submit(). Errors: denied when io_uring is blocked (the text says what to
  // check), invalid when the kernel is too old.
  static Result<std::unique_ptr<Reactor>> create(WorkerPool& workers, Options options);
  // Nothing may be in the ring or with the workers. Timers and hooks that wait become idle.
  ~Reactor() override;
  Reactor(const Reactor&) = delete;

  // Everything below is for the reactor's own thread: the one that calls run(). Before run() the
  // thread that will call it may prepare things.

  // An SQE to fill with an io_uring_prep_* call; its user data is set after that by `submit_op`:
  //   io_uring_sqe* sqe = reactor.prepare();
  //   io_uring_prep_recv(sqe, fd, …);
  //   reactor.submit_op(sqe, *this);
  // Never null: a full queue is submitted first.
  io_uring_sqe* prepare();
  void submit_op(io_uring_sqe* sqe, IoOp& op);
  // Asks the kernel to cancel `op`; it completes with -ECANCELED or its own result, as ever.
  void cancel(IoOp& op);

  void at_end_of_turn(TurnHook& hook);

  // For sessions: a completion brought `count` requests.
  void count_requests(u32 count) { requests_ += count; }

  // Runs turns until stop() was called. Can be called again.
  void run();
  void stop() { stopping_ = true; }

  // Executor
  void post(std::coroutine_handle<> handle) override;
  void submit(Job& job, Priority priority) override;
  void arm(Timer& timer, Instant deadline) override;
  void disarm(Timer& timer) override;

  // Clock: CLOCK_BOOTTIME, and the wall clock. now() is read afresh at each call.
  Instant now() override;
  WallTime wall() override;

  // Mailbox: any thread.
  void deliver(Job& job) override;

  struct Counters {
    u64 turns = 0;
    u64 system_calls = 0;
    u64 completions = 0;
    u64 sleeps = 0;  // turns that went to sleep in the kernel
  };
  const Counters& counters() const { return counters_; }

 private:
  explicit Reactor(WorkerPool& workers, Options options);
  struct Impl;

  // The parts of a turn, in their order.
  void enter_kernel();
  void take_completions();
  void fire_timers();
  void finish_delivered();
  void resume_ready();
  void call_hooks();

  void submit_and_get_events();  // makes no system call when there is nothing to do
  void spin_until(Instant next_timer);
  void sleep_until_event(Instant next_timer);
  void entered(int result);  // what io_uring_enter answered

  std::unique_ptr<Impl> impl_;
  WorkerPool& workers_;
  Options options_;
  Counters counters_;
  u32 requests_ = 0;  // of this turn
  bool stopping_ = false;
};

namespace detail {
template <class T>
Task<> capture(Reactor& reactor, Task<T> task, std::optional<Result<T>>& out) {
  Task<T> held = std::move(task);
  out.emplace(co_await as_result(std::move(held)));
  reactor.stop();
  co_return {};
}
}  // namespace detail

// Runs `task` to its end on this reactor's thread: for main programs and tests.
template <class T>
Result<T> run_until_done(Reactor& reactor, Task<T> task) {
  std::optional<Result<T>> out;
  Gate gate(reactor);
  gate.spawn(detail::capture(reactor, std::move(task), out));
  if (!out) reactor.run();
  return std::move(*out);
}

}  // namespace zerofs
