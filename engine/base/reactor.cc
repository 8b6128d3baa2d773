// Sleeping and waking. A thread that delivers a job pushes it on a lock-free list and then looks at
// `asleep_`; the reactor sets `asleep_` and then looks at the list. Both in sequentially consistent
// order, so at least one of them sees the other, and the eventfd is written only when needed.
#include "engine/base/reactor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <vector>

#include "engine/base/poll_judge.h"
#include "engine/base/timer_heap.h"

namespace zerofs {

namespace {

constexpr u32 kReadyRoundsMax = 16;   // of posted coroutines in a turn, so that sockets get theirs
constexpr u32 kCompletionsMax = 512;  // taken in a turn
constexpr u32 kSpinRequestsMax = 4;   // more at a time: the sleep gathers the next batch

Instant boot_time() {
  timespec ts;
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return Instant(std::chrono::seconds(ts.tv_sec) + Duration(ts.tv_nsec));
}

// What /proc/sys/kernel/io_uring_disabled says; '0' where it does not exist (before Linux 6.6).
char disabled_by_sysctl() {
  std::FILE* file = std::fopen("/proc/sys/kernel/io_uring_disabled", "r");
  if (file == nullptr) return '0';
  const int value = std::fgetc(file);
  std::fclose(file);
  return value == EOF ? '0' : static_cast<char>(value);
}

Error setup_error(int error_number) {
  const auto id = static_cast<u64>(error_number);
  switch (error_number) {
    case EINVAL:
    case ENOSYS:
      return {Code::invalid, "io_uring: Linux 6.1 or newer is needed, built with io_uring; errno",
              id};
    case ENOMEM:
      return {Code::denied, "io_uring: not enough memory (RLIMIT_MEMLOCK, cgroup limit?); errno",
              id};
    case EMFILE:
    case ENFILE: return {Code::denied, "io_uring: too many open files (RLIMIT_NOFILE?); errno", id};
    default:
      if (disabled_by_sysctl() == '1') {
        return {Code::denied,
                "io_uring is restricted: set sysctl kernel.io_uring_disabled to 0, or join the "
                "group kernel.io_uring_group; errno",
                id};
      }
      return {Code::denied, "io_uring is blocked (container seccomp profile?); errno", id};
  }
}

// Tells the processor that this is a waiting loop.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

}  // namespace

struct Reactor::Impl {
  // Keeps a poll of the eventfd in the ring, so that a write to it ends a sleep.
  struct Wake final : IoOp {
    void complete(i32, u32 flags) override {
      u64 count;
      static_cast<void>(!read(fd, &count, sizeof count));
      if ((flags & IORING_CQE_F_MORE) == 0) armed = false;
    }
    int fd = -1;
    bool armed = false;
  };

  // The kernel has work to do in our name that puts completions into the ring.
  bool kernel_has_work() const {
    constexpr u32 kWork = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
    return (__atomic_load_n(ring.sq.kflags, __ATOMIC_RELAXED) & kWork) != 0;
  }
  bool has_events() const { return io_uring_cq_ready(&ring) != 0 || kernel_has_work(); }
  bool has_deliveries() const { return delivered.load(std::memory_order_relaxed) != nullptr; }

  // The calling thread becomes the ring's single issuer.
  void enable() {
    if (enabled) return;
    // liburing 2.3 declares io_uring_enable_rings() but its shared library does not export it.
    const long error =
        syscall(SYS_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    INVARIANT(error == 0);
    enabled = true;
    // Saves a descriptor look-up per system call; a refusal costs just that.
    static_cast<void>(io_uring_register_ring_fd(&ring));
  }

  io_uring ring{};
  bool made = false;  // io_uring_queue_exit is owed
  bool enabled = false;
  u32 served = 0;  // requests of the last turn that had any, since the last sleep
  PollJudge judge;
  TimerHeap timers;
  Wake wake;
  std::vector<std::coroutine_handle<>> ready;
  std::vector<std::coroutine_handle<>> running;
  std::vector<TurnHook*> hooks;
  std::vector<TurnHook*> running_hooks;
  alignas(64) std::atomic<Job*> delivered = nullptr;  // newest first
  alignas(64) std::atomic<bool> asleep = false;
  std::atomic<u32> delivering = 0;  // threads inside deliver()
};

Reactor::Reactor(WorkerPool& workers, Options options)
    : impl_(std::make_unique<Impl>()), workers_(workers), options_(options) {}

Result<std::unique_ptr<Reactor>> Reactor::create(WorkerPool& workers, Options options) {
  if (disabled_by_sysctl() == '2') {
    return fail(Code::denied, "io_uring is switched off: set sysctl kernel.io_uring_disabled to 0");
  }
  std::unique_ptr<Reactor> reactor(new Reactor(workers, options));
  Impl& in = *reactor->impl_;
  io_uring_params params{};
  // R_DISABLED: the thread that enables the ring becomes its single issuer, not this one.
  // SUBMIT_ALL: one operation that is refused at once does not hold back those behind it.
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                 IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_TASKRUN_FLAG |
                 IORING_SETUP_SUBMIT_ALL;
  params.cq_entries = options.completion_entries;
  const int error = io_uring_queue_init_params(options.submission_entries, &in.ring, &params);
  if (error != 0) return std::unexpected(setup_error(-error));
  in.made = true;
  in.wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (in.wake.fd < 0) return fail(Code::denied, "eventfd, errno", static_cast<u64>(errno));
  return reactor;
}

Reactor::~Reactor() {
  while (impl_->delivering.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  for (TurnHook* hook : impl_->hooks) hook->queued = false;
  if (impl_->wake.fd >= 0) close(impl_->wake.fd);
  if (impl_->made) io_uring_queue_exit(&impl_->ring);
}

io_uring_sqe* Reactor::prepare() {
  for (;;) {
    if (io_uring_sqe* sqe = io_uring_get_sqe(&impl_->ring)) [[likely]]
      return sqe;
    impl_->enable();
    entered(io_uring_submit(&impl_->ring));
  }
}

void Reactor::submit_op(io_uring_sqe* sqe, IoOp& op) {
  io_uring_sqe_set_data(sqe, &op);
}

void Reactor::cancel(IoOp& op) {
  io_uring_sqe* sqe = prepare();
  io_uring_prep_cancel(sqe, &op, 0);
  io_uring_sqe_set_data(sqe, nullptr);
}

void Reactor::at_end_of_turn(TurnHook& hook) {
  if (hook.queued) return;
  hook.queued = true;
  impl_->hooks.push_back(&hook);
}

void Reactor::post(std::coroutine_handle<> handle) {
  impl_->ready.push_back(handle);
}

void Reactor::submit(Job& job, Priority priority) {
  workers_.submit(job, priority, *this);
}

void Reactor::arm(Timer& timer, Instant deadline) {
  impl_->timers.arm(timer, deadline);
}

void Reactor::disarm(Timer& timer) {
  impl_->timers.disarm(timer);
}

Instant Reactor::now() {
  return boot_time();
}

WallTime Reactor::wall() {
  return std::chrono::time_point_cast<Duration>(std::chrono::system_clock::now());
}

void Reactor::deliver(Job& job) {
  // The job may be finished, and with it the reactor's last work, before this call has returned:
  // the destructor waits for the count.
  impl_->delivering.fetch_add(1, std::memory_order_relaxed);
  Job* head = impl_->delivered.load(std::memory_order_relaxed);
  do {
    job.next = head;
  } while (!impl_->delivered.compare_exchange_weak(head, &job, std::memory_order_seq_cst,
                                                   std::memory_order_relaxed));
  if (impl_->asleep.load(std::memory_order_seq_cst) &&
      impl_->asleep.exchange(false, std::memory_order_seq_cst)) {
    const u64 one = 1;
    static_cast<void>(!write(impl_->wake.fd, &one, sizeof one));
  }
  impl_->delivering.fetch_sub(1, std::memory_order_release);
}

namespace {
// Oldest first.
Job* reversed(Job* job) {
  Job* out = nullptr;
  while (job != nullptr) {
    Job* next = job->next;
    job->next = out;
    out = job;
    job = next;
  }
  return out;
}
}  // namespace

void Reactor::run() {
  stopping_ = false;
  impl_->enable();
  while (!stopping_) {
    ++counters_.turns;
    enter_kernel();
    take_completions();
    fire_timers();
    finish_delivered();
    resume_ready();
    call_hooks();
  }
}

void Reactor::entered(int result) {
  ++counters_.system_calls;
  // Of these the next turn takes care; anything else would come back for ever.
  INVARIANT(result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN ||
            result == -EBUSY);
}

void Reactor::submit_and_get_events() {
  if (io_uring_sq_ready(&impl_->ring) == 0 && !impl_->kernel_has_work()) return;
  entered(io_uring_submit_and_get_events(&impl_->ring));
}

// Submits what was prepared, and sleeps when there is nothing else to do.
void Reactor::enter_kernel() {
  Impl& in = *impl_;
  const Instant next_timer = in.timers.next_deadline();
  if (!in.ready.empty() || !in.hooks.empty() || in.has_deliveries() ||
      (next_timer != Instant::max() && next_timer <= boot_time())) {
    submit_and_get_events();
    return;
  }
  // At low queue depth the next request comes sooner than a wake-up would take.
  if (in.served >= 1 && in.served <= kSpinRequestsMax && workers_.pending() == 0 &&
      in.judge.should_poll(now())) {
    spin_until(next_timer);
  }
  if (io_uring_cq_ready(&in.ring) != 0) {
    submit_and_get_events();
    return;
  }
  in.served = 0;
  in.asleep.store(true, std::memory_order_seq_cst);
  if (in.delivered.load(std::memory_order_seq_cst) == nullptr) {
    sleep_until_event(next_timer);
  } else {
    submit_and_get_events();
  }
  in.asleep.store(false, std::memory_order_seq_cst);
}

void Reactor::spin_until(Instant next_timer) {
  Impl& in = *impl_;
  submit_and_get_events();
  const Instant end = std::min(boot_time() + options_.spin, next_timer);
  while (!in.has_events() && !in.has_deliveries() && boot_time() < end) relax();
  submit_and_get_events();
}

void Reactor::sleep_until_event(Instant next_timer) {
  Impl& in = *impl_;
  if (!in.wake.armed) {
    io_uring_sqe* sqe = prepare();
    io_uring_prep_poll_multishot(sqe, in.wake.fd, POLLIN);
    submit_op(sqe, in.wake);
    in.wake.armed = true;
  }
  ++counters_.sleeps;
  if (next_timer == Instant::max()) {
    entered(io_uring_submit_and_wait(&in.ring, 1));
    return;
  }
  const Duration left = std::max(next_timer - boot_time(), Duration(1us));
  __kernel_timespec timeout{.tv_sec = left / 1s, .tv_nsec = (left % 1s).count()};
  io_uring_cqe* cqe = nullptr;
  entered(io_uring_submit_and_wait_timeout(&in.ring, &cqe, 1, &timeout, nullptr));
}

void Reactor::take_completions() {
  io_uring& ring = impl_->ring;
  io_uring_cqe* cqes[kCompletionsMax];
  const u32 count = io_uring_peek_batch_cqe(&ring, cqes, kCompletionsMax);
  counters_.completions += count;
  requests_ = 0;
  for (u32 i = 0; i < count; ++i) {
    const io_uring_cqe cqe = *cqes[i];
    if (auto* op = reinterpret_cast<IoOp*>(cqe.user_data)) op->complete(cqe.res, cqe.flags);
  }
  io_uring_cq_advance(&ring, count);
  if (requests_ != 0) impl_->served = requests_;
  impl_->judge.served(requests_);
}

// Those that are due now; what they arm waits for the next turn.
void Reactor::fire_timers() {
  if (impl_->timers.next_deadline() == Instant::max()) return;
  const Instant now = boot_time();
  while (Timer* timer = impl_->timers.take_due(now)) timer->fire();
}

void Reactor::finish_delivered() {
  if (!impl_->has_deliveries()) return;
  Job* job = reversed(impl_->delivered.exchange(nullptr, std::memory_order_seq_cst));
  while (job != nullptr) {
    Job* next = job->next;  // finish may delete or resubmit the job
    job->finish();
    job = next;
  }
}

// Coroutines that are ready, and those that they make ready.
void Reactor::resume_ready() {
  Impl& in = *impl_;
  for (u32 round = 0; round < kReadyRoundsMax && !in.ready.empty(); ++round) {
    in.running.swap(in.ready);
    for (const std::coroutine_handle<> handle : in.running) handle.resume();
    in.running.clear();
  }
}

// What every connection has to say, in one send each.
void Reactor::call_hooks() {
  Impl& in = *impl_;
  in.running_hooks.swap(in.hooks);
  for (TurnHook* hook : in.running_hooks) {
    hook->queued = false;
    hook->end_of_turn();
  }
  in.running_hooks.clear();
}

}  // namespace zerofs
