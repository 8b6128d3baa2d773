// Threads that run jobs and send them back to the thread that submitted them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/base/runtime.h"

namespace zerofs {

class WorkerPool {
 public:
  struct Options {
    u32 threads = 1;
    int niceness = 0;           // of these threads, on top of the process's own
    u32 urgent_threads = 0;     // more of them, for urgent jobs only, without niceness
    const char* name = "work";  // of the threads, at most 15 characters
  };
  explicit WorkerPool(Options options);
  // Runs what is queued, then ends the threads. Jobs are still delivered.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;

  // Any thread. Urgent jobs go before bulk ones, each kind first in, first out.
  void submit(Job& job, Priority priority, Mailbox& mailbox);

  // Jobs that wait for a thread or run, at this moment.
  u32 pending() const { return pending_.load(std::memory_order_relaxed); }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::atomic<u32> pending_ = 0;
};

}  // namespace zerofs
