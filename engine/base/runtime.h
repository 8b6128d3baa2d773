// The seams between the engine and the machine: time, randomness, the thread it lives on and the
// workers that it lends CPU work to. Production implements them with Reactor, tests/sim with a
// seeded scheduler and virtual time, so that one seed replays a whole run.
//
// One database, one thread: everything of a database except Job::run happens on its executor's
// thread, so the engine needs no locks and its reference counts are plain integers.
#pragma once

#include <chrono>
#include <coroutine>

#include "engine/base/result.h"

namespace zerofs {

using Duration = std::chrono::nanoseconds;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using std::chrono_literals::operator""us;
// Monotonic, from an arbitrary start; counts while the machine sleeps (CLOCK_BOOTTIME).
using Instant = std::chrono::time_point<std::chrono::steady_clock, Duration>;
// Seconds and nanoseconds since the Unix epoch.
using WallTime = std::chrono::time_point<std::chrono::system_clock, Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant now() = 0;
  virtual WallTime wall() = 0;
};

// Cryptographic quality in production (libsodium), seeded in the simulation.
class Random {
 public:
  virtual ~Random() = default;
  virtual void fill(MutableBytes out) = 0;
  u64 next() {
    u64 value;
    fill({reinterpret_cast<std::byte*>(&value), sizeof value});
    return value;
  }
};

class Mailbox;

// CPU work for the worker pool. `run` happens on a worker and may touch only what the job owns or
// what is immutable; `finish` happens afterwards on the thread of the executor that submitted it.
// The owner keeps the job alive until `finish` was called; `finish` may delete it.
struct Job {
  virtual ~Job() = default;
  virtual void run() = 0;
  virtual void finish() = 0;
  Job* next = nullptr;         // for the queue that holds it
  Mailbox* mailbox = nullptr;  // where it goes when it is done
};

// Where a finished job goes: its `finish` is called on the mailbox's own thread, in order.
class Mailbox {
 public:
  virtual ~Mailbox() = default;
  virtual void deliver(Job& job) = 0;  // from any thread
};

// What a flush or a read waits for goes first; sealing in bulk, folding, tables come second.
enum class Priority : u8 { urgent, bulk };

// Fires once at or after its deadline, on the executor's thread. Disarm before destruction.
struct Timer {
  virtual ~Timer() { INVARIANT(slot == 0); }
  virtual void fire() = 0;
  Instant deadline{};
  u64 slot = 0;  // for the executor: nonzero while armed
};

class Executor {
 public:
  virtual ~Executor() = default;

  // Resumes `handle` soon, on this thread, never from inside this call.
  virtual void post(std::coroutine_handle<> handle) = 0;
  virtual void submit(Job& job, Priority priority) = 0;
  // Arming an armed timer moves it. Disarming an idle one does nothing.
  virtual void arm(Timer& timer, Instant deadline) = 0;
  virtual void disarm(Timer& timer) = 0;
};

// What a component is built from; references outlive the component.
struct Runtime {
  Executor& executor;
  Clock& clock;
  Random& random;
};

}  // namespace zerofs
