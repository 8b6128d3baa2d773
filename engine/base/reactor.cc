// Sleeping and waking. A thread that delivers a job pushes it on a lock-free list and then looks at
// `asleep_`; the reactor sets `asleep_` and then looks at the list. Both in sequentially consistent
// order, so at least one of them sees the other, and the eventfd is written only when needed.
#include "engine/base/reactor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

namespace zerofs {

namespace {

constexpr u32 kReadyRoundsMax = 16;  // of posted coroutines in a turn, so that sockets get theirs
constexpr u32 kCompletionsMax = 512;  // taken in a turn

Instant boot_time() {
  timespec ts;
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return Instant(std::chrono::seconds(ts.tv_sec) + Duration(ts.tv_nsec));
}

bool disabled_by_sysctl() {
  std::FILE* file = std::fopen("/proc/sys/kernel/io_uring_disabled", "r");
  if (file == nullptr) return false;
  const int value = std::fgetc(file);
  std::fclose(file);
  return value == '2';
}

}  // namespace

struct Reactor::Impl {
  // Timers: a binary heap of pointers; Timer::slot is the index + 1.
  struct Timers {
    struct Item {
      Instant deadline;
      u64 order;  // ties fire in the order of arming
      Timer* timer;
      bool operator<(const Item& other) const {
        return std::tie(deadline, order) < std::tie(other.deadline, other.order);
      }
    };
    std::vector<Item> heap;
    u64 next_order = 0;

    void place(std::size_t at, Item item) {
      heap[at] = item;
      item.timer->slot = at + 1;
    }
    void up(std::size_t at) {
      const Item item = heap[at];
      while (at != 0 && item < heap[(at - 1) / 2]) {
        place(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
      }
      place(at, item);
    }
    void down(std::size_t at) {
      const Item item = heap[at];
      for (;;) {
        std::size_t child = 2 * at + 1;
        if (child >= heap.size()) break;
        if (child + 1 < heap.size() && heap[child + 1] < heap[child]) ++child;
        if (!(heap[child] < item)) break;
        place(at, heap[child]);
        at = child;
      }
      place(at, item);
    }
    void remove(Timer& timer) {
      if (timer.slot == 0) return;
      const std::size_t at = timer.slot - 1;
      timer.slot = 0;
      const Item last = heap.back();
      heap.pop_back();
      if (at == heap.size()) return;
      place(at, last);
      up(at);
      down(last.timer->slot - 1);
    }
    void add(Timer& timer) {
      heap.push_back({timer.deadline, next_order++, &timer});
      up(heap.size() - 1);
    }
  };

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

  // Completions are in the ring, or the kernel has work that would put them there.
  bool has_events() {
    return io_uring_cq_ready(&ring) != 0 ||
           (__atomic_load_n(ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN) != 0;
  }

  io_uring ring{};
  bool enabled = false;
  Timers timers;
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
  if (disabled_by_sysctl()) {
    return fail(Code::denied,
                "io_uring is switched off: set sysctl kernel.io_uring_disabled to 0");
  }
  std::unique_ptr<Reactor> reactor(new Reactor(workers, options));
  io_uring_params params{};
  // R_DISABLED: the thread that enables the ring, in run(), becomes its single issuer.
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE |
                 IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_TASKRUN_FLAG;
  params.cq_entries = options.completion_entries;
  const int error =
      io_uring_queue_init_params(options.submission_entries, &reactor->impl_->ring, &params);
  if (error != 0) {
    if (error == -EINVAL) {
      return invalid("io_uring: the kernel is too old, Linux 6.1 or newer is needed, errno",
                     static_cast<u64>(-error));
    }
    return fail(Code::denied,
                "io_uring cannot be set up (container seccomp profile? RLIMIT_MEMLOCK?), errno",
                static_cast<u64>(-error));
  }
  reactor->impl_->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (reactor->impl_->wake.fd < 0) return fail(Code::denied, "eventfd, errno", errno);
  return reactor;
}

Reactor::~Reactor() {
  while (impl_->delivering.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  if (impl_->wake.fd >= 0) close(impl_->wake.fd);
  if (impl_->ring.ring_fd > 0) io_uring_queue_exit(&impl_->ring);
}

io_uring_sqe* Reactor::prepare() {
  io_uring_sqe* sqe = io_uring_get_sqe(&impl_->ring);
  if (sqe == nullptr) [[unlikely]] {
    INVARIANT(impl_->enabled);
    ++counters_.system_calls;
    io_uring_submit(&impl_->ring);
    sqe = io_uring_get_sqe(&impl_->ring);
    INVARIANT(sqe != nullptr);
  }
  return sqe;
}

void Reactor::submit_op(io_uring_sqe* sqe, IoOp& op) { io_uring_sqe_set_data(sqe, &op); }

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

void Reactor::post(std::coroutine_handle<> handle) { impl_->ready.push_back(handle); }

void Reactor::submit(Job& job, Priority priority) { workers_.submit(job, priority, *this); }

void Reactor::arm(Timer& timer, Instant deadline) {
  impl_->timers.remove(timer);
  timer.deadline = deadline;
  impl_->timers.add(timer);
}

void Reactor::disarm(Timer& timer) { impl_->timers.remove(timer); }

Instant Reactor::now() { return boot_time(); }

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
  Impl& in = *impl_;
  stopping_ = false;
  if (!in.enabled) {
    // liburing 2.3 declares io_uring_enable_rings() but its shared library does not export it.
    const long error = syscall(SYS_io_uring_register, in.ring.ring_fd,
                               IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    INVARIANT(error == 0);
    in.enabled = true;
    // Saves a descriptor look-up per system call; a refusal costs just that.
    static_cast<void>(io_uring_register_ring_fd(&in.ring));
  }
  PollJudge judge;
  u32 served = 0;  // requests of the last turn that had any, since the last sleep

  while (!stopping_) {
    ++counters_.turns;

    // Submit, and sleep when there is nothing to do.
    const bool busy = !in.ready.empty() || !in.hooks.empty() ||
                      in.delivered.load(std::memory_order_relaxed) != nullptr;
    const Instant next_timer =
        in.timers.heap.empty() ? Instant::max() : in.timers.heap.front().deadline;
    const auto get_events = [&] {
      ++counters_.system_calls;
      io_uring_submit_and_get_events(&in.ring);
    };
    const bool timer_due = next_timer != Instant::max() && next_timer <= boot_time();
    if (busy || timer_due) {
      get_events();
    } else {
      if (served >= 1 && served <= 4 && workers_.pending() == 0 && judge.should_poll(now())) {
        // Queue depth is low: the next request comes sooner than a wake-up would take.
        get_events();
        const Instant spin_end = std::min(boot_time() + options_.spin, next_timer);
        while (!in.has_events() && in.delivered.load(std::memory_order_relaxed) == nullptr &&
               boot_time() < spin_end) {
        }
        if (in.has_events()) get_events();
      }
      if (io_uring_cq_ready(&in.ring) == 0) {
        served = 0;
        in.asleep.store(true, std::memory_order_seq_cst);
        if (in.delivered.load(std::memory_order_seq_cst) == nullptr) {
          if (!in.wake.armed) {
            io_uring_sqe* sqe = prepare();
            io_uring_prep_poll_multishot(sqe, in.wake.fd, POLLIN);
            submit_op(sqe, in.wake);
            in.wake.armed = true;
          }
          ++counters_.sleeps;
          ++counters_.system_calls;
          io_uring_cqe* cqe = nullptr;
          if (next_timer == Instant::max()) {
            io_uring_submit_and_wait(&in.ring, 1);
          } else {
            const Duration left = std::max(next_timer - boot_time(), Duration(1000));
            __kernel_timespec ts{.tv_sec = left.count() / 1'000'000'000,
                                 .tv_nsec = left.count() % 1'000'000'000};
            io_uring_submit_and_wait_timeout(&in.ring, &cqe, 1, &ts, nullptr);
          }
        }
        in.asleep.store(false, std::memory_order_seq_cst);
      }
    }

    // Completions.
    io_uring_cqe* cqes[kCompletionsMax];
    const u32 count = io_uring_peek_batch_cqe(&in.ring, cqes, kCompletionsMax);
    counters_.completions += count;
    requests_ = 0;
    for (u32 i = 0; i < count; ++i) {
      const io_uring_cqe cqe = *cqes[i];
      if (auto* op = reinterpret_cast<IoOp*>(cqe.user_data)) op->complete(cqe.res, cqe.flags);
    }
    io_uring_cq_advance(&in.ring, count);
    if (requests_ != 0) served = requests_;
    judge.served(requests_);

    // Timers that are due now; those that they arm wait for the next turn.
    if (!in.timers.heap.empty()) {
      const Instant now = boot_time();
      const u64 order_end = in.timers.next_order;
      while (!in.timers.heap.empty() && in.timers.heap.front().deadline <= now &&
             in.timers.heap.front().order < order_end) {
        Timer& timer = *in.timers.heap.front().timer;
        in.timers.remove(timer);
        timer.fire();
      }
    }

    // Jobs that other threads finished.
    if (in.delivered.load(std::memory_order_relaxed) != nullptr) {
      Job* job = reversed(in.delivered.exchange(nullptr, std::memory_order_seq_cst));
      while (job != nullptr) {
        Job* next = job->next;  // finish may delete or resubmit the job
        job->finish();
        job = next;
      }
    }

    // Coroutines that are ready, and those that they make ready.
    for (u32 round = 0; round < kReadyRoundsMax && !in.ready.empty(); ++round) {
      in.running.swap(in.ready);
      for (const std::coroutine_handle<> handle : in.running) handle.resume();
      in.running.clear();
    }

    // What every connection has to say, in one send each.
    in.running_hooks.swap(in.hooks);
    for (TurnHook* hook : in.running_hooks) {
      hook->queued = false;
      hook->end_of_turn();
    }
    in.running_hooks.clear();
  }
}

}  // namespace zerofs
