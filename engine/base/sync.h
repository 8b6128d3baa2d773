// Waiting, for coroutines on one executor: Event, Gate, sleep, offload.
#pragma once

#include <type_traits>
#include <vector>

#include "engine/base/runtime.h"
#include "engine/base/task.h"

namespace zerofs {

// A list of coroutines that wait for something to change. Waking posts them all; each looks again
// at the condition that it waits for:   while (!ready) co_await event.wait();
class Event {
 public:
  explicit Event(Executor& executor) : executor_(executor) {}
  Event(const Event&) = delete;
  ~Event() { INVARIANT(waiters_.empty()); }

  struct Awaiter {
    Event& event;
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) { event.waiters_.push_back(handle); }
    void await_resume() noexcept {}
  };
  Awaiter wait() { return {*this}; }

  void wake_all() {
    for (std::coroutine_handle<> handle : waiters_) executor_.post(handle);
    waiters_.clear();
  }
  bool has_waiters() const { return !waiters_.empty(); }

 private:
  Executor& executor_;
  std::vector<std::coroutine_handle<>> waiters_;
};

// Holds every coroutine that its owner spawned. The owner closes it and awaits the end of them all
// before it dies; nothing detaches.
class Gate {
 public:
  explicit Gate(Executor& executor) : empty_(executor) {}
  Gate(const Gate&) = delete;
  ~Gate() { INVARIANT(count_ == 0); }

  // Starts the task at once, on the caller's stack. Its error is dropped: a task that can fail in
  // a way that matters handles that itself. Spawning into a closed gate is a bug.
  void spawn(Task<> task) {
    INVARIANT(!closed_);
    ++count_;
    run(*this, std::move(task));
  }
  // Ends when everything spawned has ended. Afterwards the gate stays closed.
  Task<> close() {
    closed_ = true;
    while (count_ != 0) co_await empty_.wait();
    co_return {};
  }
  bool closed() const { return closed_; }
  u32 count() const { return count_; }

 private:
  struct Root {  // starts at once, destroys its own frame at the end
    struct promise_type : detail::PromiseBase {
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      Root get_return_object() { return {}; }
      void return_void() {}
    };
  };
  static Root run(Gate& gate, Task<> task) {
    {
      Task<> held = std::move(task);
      // Dropped by contract, see spawn().
      static_cast<void>(co_await as_result(std::move(held)));
    }
    if (--gate.count_ == 0) gate.empty_.wake_all();
  }

  Event empty_;
  u32 count_ = 0;
  bool closed_ = false;
};

// co_await sleep_until(executor, deadline);
class SleepAwaiter final : Timer {
 public:
  SleepAwaiter(Executor& executor, Instant until) : executor_(executor), until_(until) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    executor_.arm(*this, until_);
  }
  void await_resume() noexcept {}

 private:
  void fire() override { handle_.resume(); }
  Executor& executor_;
  Instant until_;
  std::coroutine_handle<> handle_;
};
inline SleepAwaiter sleep_until(Executor& executor, Instant until) {
  return {executor, until};
}
inline SleepAwaiter sleep_for(const Runtime& runtime, Duration duration) {
  return {runtime.executor, runtime.clock.now() + duration};
}

// Wakes an Event at a deadline, so that `while (…) co_await event.wait();` can also time out.
class WakeTimer final : public Timer {
 public:
  WakeTimer(Executor& executor, Event& event) : executor_(executor), event_(event) {}
  ~WakeTimer() override { executor_.disarm(*this); }
  void arm(Instant deadline) { executor_.arm(*this, deadline); }
  void disarm() { executor_.disarm(*this); }

 private:
  void fire() override { event_.wake_all(); }
  Executor& executor_;
  Event& event_;
};

// Runs `function()` on a worker and yields what it returned:
//   auto work = [moved = std::move(input)] { return build(moved); };
//   Result<Table> table = co_await offload(executor, Priority::bulk, std::move(work));
template <class Function>
class Offload final : Job {
 public:
  using Value = std::invoke_result_t<Function&>;

  Offload(Executor& executor, Priority priority, Function function)
      : executor_(executor), priority_(priority), function_(std::move(function)) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    executor_.submit(*this, priority_);
  }
  Value await_resume() {
    if constexpr (!std::is_void_v<Value>) return std::move(*value_);
  }

 private:
  struct Empty {};
  void run() override {
    if constexpr (std::is_void_v<Value>) {
      function_();
    } else {
      value_.emplace(function_());
    }
  }
  void finish() override { handle_.resume(); }

  Executor& executor_;
  Priority priority_;
  Function function_;
  std::coroutine_handle<> handle_;
  [[no_unique_address]] std::conditional_t<std::is_void_v<Value>, Empty, std::optional<Value>>
      value_;
};
template <class Function>
Offload<Function> offload(Executor& executor, Priority priority, Function function) {
  return {executor, priority, std::move(function)};
}

}  // namespace zerofs
