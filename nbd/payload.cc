// Payloads of large WRITEs, received where they will stay, a window at a time.
#include <sys/socket.h>

#include <algorithm>

#include "nbd/connection.h"

namespace zerofs::nbd {

// Finds a place for the next part of the payload and receives it there.
void Connection::next_window() {
  Direct& direct = *direct_;
  const u32 left = direct.request.length - direct.done;
  direct.received = 0;
  direct.bytes = std::min(left, server_.budget_.is_tight() ? kTightWindowBytes : kWindowBytes);
  account();
  const bool in_pages = direct.offset() % kPageBytes == 0 && left >= kPageBytes;
  if (!in_pages || direct.error != Errno::ok) {
    if (direct.body.size() < direct.bytes) direct.body = Buffer(direct.bytes);
    receive_window();
    return;
  }
  direct.bytes -= direct.bytes % kPageBytes;
  if (db_.try_take_pages(direct.bytes / kPageBytes, direct.pages)) {
    receive_window();
  } else {
    window_waits_ = true;
    gate_.spawn(wait_for_pages());
  }
}

Task<> Connection::wait_for_pages() {
  const Result<> taken =
      co_await as_result(db_.take_pages(direct_->bytes / kPageBytes, direct_->pages));
  window_waits_ = false;
  if (!taken) {
    kill();  // the database is closing or fenced
  } else if (!dead_) {
    receive_window();
  }
  changed_.wake_all();
  co_return {};
}

MutableBytes Connection::window_at(u32 at) {
  Direct& direct = *direct_;
  if (direct.pages.empty()) return direct.body.mutable_bytes().subspan(at, direct.bytes - at);
  std::byte* page = db_.page_data(direct.pages[at / kPageBytes]);
  return MutableBytes(page, kPageBytes).subspan(at % kPageBytes);
}

// Takes what is buffered already, then receives the rest in place.
void Connection::receive_window() {
  Direct& direct = *direct_;
  while (direct.received < direct.bytes && begin_ < end_) {
    const MutableBytes to = window_at(direct.received);
    const u32 count = static_cast<u32>(std::min<std::size_t>(to.size(), end_ - begin_));
    std::memcpy(to.data(), input_.data() + begin_, count);
    begin_ += count;
    direct.received += count;
  }
  if (direct.received == direct.bytes) {
    apply_window();
    return;
  }
  direct.vectors.clear();
  for (u32 at = direct.received; at < direct.bytes;) {
    const MutableBytes to = window_at(at);
    at += static_cast<u32>(to.size());
    iovec* last = direct.vectors.empty() ? nullptr : &direct.vectors.back();
    if (last != nullptr && static_cast<std::byte*>(last->iov_base) + last->iov_len == to.data()) {
      last->iov_len += to.size();
    } else {
      direct.vectors.push_back({to.data(), to.size()});
    }
  }
  progress_ = reactor_.now();
  direct.message.msg_iov = direct.vectors.data();
  direct.message.msg_iovlen = direct.vectors.size();
  io_uring_sqe* sqe = reactor_.prepare();
  io_uring_prep_recvmsg(sqe, fd_, &direct.message, MSG_WAITALL);
  reactor_.submit_op(sqe, direct_op_);
  receiving_ = true;
}

void Connection::window_received(i32 result) {
  receiving_ = false;
  if (result <= 0 || dead_) {
    kill();
    return;
  }
  direct_->received += static_cast<u32>(result);
  receive_window();
}

void Connection::apply_window() {
  Direct& direct = *direct_;
  // The volume may have shrunk since the request was let in.
  if (direct.error == Errno::ok && direct.offset() + direct.bytes > volume_->size()) {
    direct.error = Errno::nospc;
  }
  if (direct.error != Errno::ok) {
    db_.return_pages(direct.pages);
  } else if (!direct.pages.empty()) {
    db_.write_pages(volume_->object(), direct.offset() / kPageBytes, direct.pages);
  } else if (!db_.try_write(volume_->object(), direct.offset(),
                            direct.body.bytes().first(direct.bytes))) {
    window_waits_ = true;
    gate_.spawn(apply_window_slowly());
    return;
  }
  direct.pages.clear();
  window_applied();
}

Task<> Connection::apply_window_slowly() {
  volume_->mutation_begins();
  const Result<> written = co_await as_result(
      db_.write(volume_->object(), direct_->offset(), direct_->body.bytes().first(direct_->bytes)));
  volume_->mutation_ends();
  window_waits_ = false;
  if (!written) direct_->error = errno_of(written.error());
  if (!dead_) window_applied();
  changed_.wake_all();
  co_return {};
}

void Connection::window_applied() {
  Direct& direct = *direct_;
  direct.done += direct.bytes;
  if (direct.done != direct.request.length) {
    next_window();
    return;
  }
  const Request request = direct.request;
  const Errno error = direct.error;
  direct_.reset();
  ++server_.stats_.requests;
  if (error == Errno::ok) {
    after_change(request);
  } else {
    reply_error(request, error);
  }
  process();
}

}  // namespace zerofs::nbd
