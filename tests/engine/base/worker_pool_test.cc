// Goal: jobs run in the promised order, on threads with the promised name and niceness, and every
// one is delivered, also when the pool ends.
// Method: a job that holds its thread until it is told to go makes the queues' order visible.
#include "engine/base/worker_pool.h"

#include <doctest/doctest.h>

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <latch>
#include <string>
#include <vector>

namespace zerofs {
namespace {

// Collects what was delivered, from any thread.
struct Collector final : Mailbox {
  void deliver(Job& job) override {
    const std::scoped_lock lock(mutex);
    jobs.push_back(&job);
    arrived.notify_all();
  }
  void wait_for(std::size_t count) {
    std::unique_lock lock(mutex);
    arrived.wait(lock, [&] { return jobs.size() >= count; });
  }
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Job*> jobs;
};

struct Plain : Job {
  void run() override { ran = true; }
  void finish() override {}
  bool ran = false;
};

// Says that it has started and waits until it may go on.
struct Blocker final : Plain {
  void run() override {
    started.count_down();
    go.wait();
  }
  std::latch started{1};
  std::latch go{1};
};

TEST_CASE("urgent jobs go before bulk ones, each kind in the order of submission") {
  Collector done;
  Blocker blocker;
  std::deque<Plain> bulk(20);
  std::deque<Plain> urgent(20);
  WorkerPool pool({.threads = 1});
  pool.submit(blocker, Priority::bulk, done);
  blocker.started.wait();
  for (u32 i = 0; i < 20; ++i) {
    pool.submit(bulk[i], Priority::bulk, done);
    pool.submit(urgent[i], Priority::urgent, done);
  }
  CHECK(pool.pending() == 41);
  blocker.go.count_down();
  done.wait_for(41);
  CHECK(pool.pending() == 0);
  std::vector<Job*> wanted{&blocker};
  for (Plain& job : urgent) wanted.push_back(&job);
  for (Plain& job : bulk) wanted.push_back(&job);
  CHECK(done.jobs == wanted);
}

TEST_CASE("an urgent thread is free while bulk work holds the others") {
  Collector done;
  Blocker blocker;
  Plain bulk;
  Plain urgent;
  WorkerPool pool({.threads = 1, .urgent_threads = 1});
  pool.submit(blocker, Priority::bulk, done);
  blocker.started.wait();
  pool.submit(bulk, Priority::bulk, done);
  pool.submit(urgent, Priority::urgent, done);
  done.wait_for(1);
  CHECK(done.jobs == std::vector<Job*>{&urgent});
  CHECK_FALSE(bulk.ran);
  blocker.go.count_down();
  done.wait_for(3);
  CHECK(done.jobs == std::vector<Job*>{&urgent, &blocker, &bulk});
}

struct LookAtThread final : Plain {
  void run() override {
    char text[16] = {};
    pthread_getname_np(pthread_self(), text, sizeof text);
    name = text;
    niceness = getpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)));
  }
  std::string name;
  int niceness = 0;
};

TEST_CASE("threads have their name, and niceness on top of what they inherit") {
  std::thread([] {
    const int inherited = nice(3);  // of this thread
    Collector done;
    Blocker blocker;
    LookAtThread bulk;
    LookAtThread urgent;
    WorkerPool pool({.threads = 1, .niceness = 5, .urgent_threads = 1, .name = "base-test"});
    pool.submit(bulk, Priority::bulk, done);
    done.wait_for(1);
    CHECK(bulk.name == "base-test");
    CHECK(bulk.niceness == std::min(inherited + 5, 19));  // there is no more
    CHECK(getpriority(PRIO_PROCESS, 0) == inherited);

    pool.submit(blocker, Priority::bulk, done);  // so that the other thread takes it
    blocker.started.wait();
    pool.submit(urgent, Priority::urgent, done);
    done.wait_for(2);
    blocker.go.count_down();
    CHECK(urgent.name == "base-test");
    CHECK(urgent.niceness == inherited);
  }).join();
}

TEST_CASE("a pool that ends runs and delivers what is queued") {
  Collector done;
  Blocker blocker;
  std::deque<Plain> jobs(100);
  std::thread releases;
  {
    WorkerPool pool({.threads = 2, .urgent_threads = 1});
    pool.submit(blocker, Priority::urgent, done);
    blocker.started.wait();
    for (u32 i = 0; i < 100; ++i) {
      pool.submit(jobs[i], i % 2 == 0 ? Priority::bulk : Priority::urgent, done);
    }
    releases = std::thread([&] { blocker.go.count_down(); });
  }
  releases.join();
  CHECK(done.jobs.size() == 101);
  for (const Plain& job : jobs) CHECK(job.ran);
}

TEST_CASE("many threads submit") {
  constexpr u32 kThreads = 4;
  constexpr u32 kJobs = 2000;
  Collector done;
  std::vector<std::deque<Plain>> jobs(kThreads);
  WorkerPool pool({.threads = 2, .urgent_threads = 1});
  {
    std::vector<std::jthread> threads;
    for (u32 t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        jobs[t].resize(kJobs);
        for (Plain& job : jobs[t]) {
          pool.submit(job, t % 2 == 0 ? Priority::bulk : Priority::urgent, done);
        }
      });
    }
  }
  done.wait_for(kThreads * kJobs);
  for (const std::deque<Plain>& of_thread : jobs) {
    for (const Plain& job : of_thread) REQUIRE(job.ran);
  }
  CHECK(pool.pending() == 0);
}

}  // namespace
}  // namespace zerofs
