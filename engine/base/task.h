// Task<T>: a lazy coroutine that yields T or Error.
//
//   T value = co_await task();                  // unwraps, or ends this coroutine with the error
//   Result<T> r = co_await as_result(task());   // looks at the error instead
//   T value = co_await some_result;             // a Result unwraps the same way
//   co_return value;  co_return corrupt("…");   // T, Error, unexpected or Result<T>
//
// The child starts inside the parent's await_suspend, which answers "not suspended" when the child
// is done already. So a loop over children that complete at once uses no stack, in every build
// mode, which textbook symmetric transfer promises only with optimised tail calls. An error passes
// through the waiting ancestors without resuming their frames.
//
// A Task that was started must not be destroyed before it is done: nothing in this tree cancels a
// coroutine from outside. Roots are started by Gate::spawn (sync.h).
#pragma once

#include <coroutine>
#include <optional>

#include "engine/base/result.h"

namespace zerofs {

template <class T = void>
class Task;

namespace detail {

template <class T>
struct AsResult {
  Task<T> task;
};

struct PromiseBase {
  std::coroutine_handle<> parent;      // set once the parent has really suspended
  PromiseBase* parent_base = nullptr;  // set when errors pass through the parent
  bool done = false;
  std::optional<Error> error;

  std::suspend_always initial_suspend() noexcept { return {}; }
  [[noreturn]] void unhandled_exception() noexcept { std::abort(); }

  // Ends this coroutine and each ancestor that its error passes through, then resumes the first
  // one that has something to do. `p` may be destroyed by that resume.
  static void finish(PromiseBase* p) noexcept {
    for (;;) {
      p->done = true;
      if (!p->parent) return;  // the parent is still inside await_suspend and will see `done`
      if (!p->error || p->parent_base == nullptr) {
        p->parent.resume();
        return;
      }
      p->parent_base->error = p->error;
      p = p->parent_base;
    }
  }

  struct Final {
    bool await_ready() noexcept { return false; }
    template <class P>
    void await_suspend(std::coroutine_handle<P> handle) noexcept {
      finish(&handle.promise());
    }
    void await_resume() noexcept {}
  };
  Final final_suspend() noexcept { return {}; }

  template <class T>
  struct ChildAwaiter {
    Task<T> task;
    PromiseBase* self;
    bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      auto& child = task.promise();
      child.parent_base = self;
      task.start();
      if (!child.done) {
        child.parent = handle;
        return true;
      }
      if (!child.error) return false;
      self->error = child.error;
      finish(self);
      return true;
    }
    T await_resume() { return std::move(task.promise()).take(); }
  };

  template <class T>
  struct ResultOfChildAwaiter {
    Task<T> task;
    bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      auto& child = task.promise();
      task.start();
      if (child.done) return false;
      child.parent = handle;
      return true;
    }
    Result<T> await_resume() {
      auto& child = task.promise();
      if (child.error) return std::unexpected(*child.error);
      if constexpr (std::is_void_v<T>) {
        return {};
      } else {
        return std::move(child).take();
      }
    }
  };

  template <class T>
  struct ResultAwaiter {
    Result<T> result;
    PromiseBase* self;
    bool await_ready() noexcept { return result.has_value(); }
    void await_suspend(std::coroutine_handle<>) {
      self->error = result.error();
      finish(self);
    }
    T await_resume() {
      if constexpr (!std::is_void_v<T>) return std::move(*result);
    }
  };

  template <class T>
  ChildAwaiter<T> await_transform(Task<T> task) {
    return {std::move(task), this};
  }
  template <class T>
  ResultOfChildAwaiter<T> await_transform(AsResult<T> as_result) {
    return {std::move(as_result.task)};
  }
  template <class T>
  ResultAwaiter<T> await_transform(Result<T> result) {
    return {std::move(result), this};
  }
  template <class Awaiter>
    requires requires(Awaiter awaiter) { awaiter.await_ready(); }
  Awaiter&& await_transform(Awaiter&& awaiter) {
    return static_cast<Awaiter&&>(awaiter);
  }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<T> value;

  Task<T> get_return_object();
  void return_value(T v) { value.emplace(std::move(v)); }
  void return_value(std::unexpected<Error> e) { error.emplace(e.error()); }
  void return_value(Result<T> result) {
    if (result) {
      value.emplace(std::move(*result));
    } else {
      error.emplace(result.error());
    }
  }
  T take() && { return std::move(*value); }
};

// `co_return {};` ends a Task<> well, `co_return corrupt("…")` badly.
template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_value(Result<void> result) {
    if (!result) error.emplace(result.error());
  }
  void take() && {}
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;

  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  promise_type& promise() { return handle_.promise(); }
  void start() { handle_.resume(); }

 private:
  std::coroutine_handle<promise_type> handle_;
};

template <class T>
Task<T> detail::Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> detail::Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

template <class T>
detail::AsResult<T> as_result(Task<T> task) {
  return {std::move(task)};
}

}  // namespace zerofs
