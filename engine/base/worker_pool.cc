#include "engine/base/worker_pool.h"

#include <pthread.h>
#include <unistd.h>

#include <vector>

namespace zerofs {

namespace {

// First in, first out, through Job::next.
struct Queue {
  Job* head = nullptr;
  Job* tail = nullptr;

  void push(Job& job) {
    job.next = nullptr;
    (tail != nullptr ? tail->next : head) = &job;
    tail = &job;
  }
  Job* pop() {
    Job* job = head;
    if (job != nullptr) {
      head = job->next;
      if (head == nullptr) tail = nullptr;
    }
    return job;
  }
};

}  // namespace

struct WorkerPool::Impl {
  std::mutex mutex;
  std::condition_variable work;         // for threads that take everything
  std::condition_variable urgent_work;  // for threads that take urgent jobs only
  Queue queues[2];                      // by Priority
  bool stopping = false;
  std::vector<std::thread> threads;
};

WorkerPool::WorkerPool(Options options) : impl_(std::make_unique<Impl>()) {
  const auto serve = [this, options](bool urgent_only) {
    pthread_setname_np(pthread_self(), options.name);
    // On Linux this is for the calling thread alone. Refused means: as important as the rest.
    if (!urgent_only) static_cast<void>(!nice(options.niceness));
    std::unique_lock lock(impl_->mutex);
    for (;;) {
      Job* job = impl_->queues[0].pop();
      if (job == nullptr && !urgent_only) job = impl_->queues[1].pop();
      if (job == nullptr) {
        if (impl_->stopping) return;
        (urgent_only ? impl_->urgent_work : impl_->work).wait(lock);
        continue;
      }
      lock.unlock();
      job->run();
      pending_.fetch_sub(1, std::memory_order_relaxed);
      job->mailbox->deliver(*job);
      lock.lock();
    }
  };
  for (u32 i = 0; i < options.threads; ++i) impl_->threads.emplace_back(serve, false);
  for (u32 i = 0; i < options.urgent_threads; ++i) impl_->threads.emplace_back(serve, true);
}

WorkerPool::~WorkerPool() {
  {
    const std::scoped_lock lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->work.notify_all();
  impl_->urgent_work.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

void WorkerPool::submit(Job& job, Priority priority, Mailbox& mailbox) {
  job.mailbox = &mailbox;
  pending_.fetch_add(1, std::memory_order_relaxed);
  {
    const std::scoped_lock lock(impl_->mutex);
    impl_->queues[priority == Priority::urgent ? 0 : 1].push(job);
  }
  if (priority == Priority::urgent) impl_->urgent_work.notify_one();
  impl_->work.notify_one();
}

}  // namespace zerofs
