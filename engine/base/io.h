// One ring operation as an awaitable, for code that is not on a hot path:
//   i32 count = co_await ring_op(reactor, [&](io_uring_sqe* sqe) {
//     io_uring_prep_recv(sqe, fd, data, size, 0);
//   });
// Yields the CQE's result. What the operation refers to must outlive it.
#pragma once

#include "engine/base/reactor.h"

namespace zerofs {

template <class Prepare>
class RingOp final : IoOp {
 public:
  RingOp(Reactor& reactor, Prepare prepare) : reactor_(reactor), prepare_(std::move(prepare)) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    io_uring_sqe* sqe = reactor_.prepare();
    prepare_(sqe);
    reactor_.submit_op(sqe, *this);
  }
  i32 await_resume() noexcept { return result_; }

 private:
  void complete(i32 result, u32) override {
    result_ = result;
    handle_.resume();
  }
  Reactor& reactor_;
  Prepare prepare_;
  std::coroutine_handle<> handle_;
  i32 result_ = 0;
};

template <class Prepare>
RingOp<Prepare> ring_op(Reactor& reactor, Prepare prepare) {
  return {reactor, std::move(prepare)};
}

}  // namespace zerofs
