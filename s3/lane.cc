#include "s3/lane.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>

namespace zerofs::s3 {

namespace {

// A stall begins at any moment: what is under way is looked at this often in its patience.
constexpr i32 kLooksPerStall = 8;

CURLM* make_multi() {
  CURLM* multi = curl_multi_init();
  INVARIANT(multi != nullptr);
  return multi;
}

}  // namespace

Lane::Lane(Shared& shared, Mailbox& mailbox, const char* thread_name)
    : shared_(shared),
      mailbox_(mailbox),
      look_every_(shared.config.deadlines.stall / kLooksPerStall),
      multi_(make_multi()) {
  const auto serve = [this, thread_name] {
    pthread_setname_np(pthread_self(), thread_name);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);  // SIGPIPE of a socket included
    run();
  };
  thread_ = std::thread(serve);
}

Lane::~Lane() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    curl_multi_wakeup(multi_);
  }
  thread_.join();
  INVARIANT(flights_.empty() && submitted_.empty());
  all_.clear();
  curl_multi_cleanup(multi_);
}

void Lane::submit(Exchange& exchange) {
  exchange.mailbox = &mailbox_;
  const std::scoped_lock lock(mutex_);
  INVARIANT(!stopping_);
  submitted_.push_back(&exchange);
  if (submitted_.size() == 1) curl_multi_wakeup(multi_);
}

void Lane::run() {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (stopping_ && flights_.empty() && submitted_.empty()) return;
      taken_.swap(submitted_);
    }
    take_submitted();
    Instant now = now_monotonic();
    start_waiting(now);
    if (!active_.empty()) {
      int running = 0;
      curl_multi_perform(multi_, &running);
      finish_done();
      now = now_monotonic();
      if (now >= next_look_) look_at_clock(now);
      // What ended made room: start that before sleeping.
      start_waiting(now);
    }
    sleep(now);
  }
}

void Lane::take_submitted() {
  for (Exchange* exchange : taken_) {
    const u32 klass = static_cast<u32>(exchange->request.klass);
    waiting_[klass].push_back(exchange);
    ++shared_.stats.waiting[klass];
  }
  taken_.clear();
}

void Lane::start_waiting(Instant now) {
  for (u32 k = 0; k < kClasses; ++k) {
    while (!waiting_[k].empty() && in_flight_[k] < shared_.cap(static_cast<store::Class>(k), now)) {
      Exchange& exchange = *waiting_[k].front();
      waiting_[k].pop_front();
      --shared_.stats.waiting[k];
      ++in_flight_[k];
      ++shared_.stats.in_flight[k];
      Flight& flight = flights_.emplace_back(exchange);
      if (exchange.request.operation == Operation::get) {
        flight.hedge_at = shared_.with_hedging([now](HedgePolicy& policy) {
          policy.earn();
          return policy.enabled() ? now + policy.delay() : Instant::max();
        });
        next_look_ = std::min(next_look_, flight.hedge_at);
      }
      launch(flight, now);
    }
  }
}

void Lane::launch(Flight& flight, Instant now) {
  if (spare_.empty()) {
    all_.push_back(std::make_unique<Transfer>(shared_));
    spare_.push_back(all_.back().get());
  }
  Transfer& transfer = *spare_.back();
  spare_.pop_back();
  (flight.transfers[0] == nullptr ? flight.transfers[0] : flight.transfers[1]) = &transfer;
  transfer.begin(flight, signer_, now);
  transfer.index = active_.size();
  active_.push_back(&transfer);
  connections_ = true;
  next_look_ = std::min(next_look_, now + look_every_);
  const CURLMcode added = curl_multi_add_handle(multi_, transfer.easy());
  INVARIANT(added == CURLM_OK);
}

void Lane::finish_done() {
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    Transfer& transfer = Transfer::of(message->easy_handle);
    transfer.end(message->data.result);
    retire(transfer);
  }
  // Of a hedged pair one is beaten as soon as the other has its headers. Its buffer is the
  // flight's, so it goes before anything else happens.
  for (std::size_t i = 0; i < active_.size();) {
    Transfer& transfer = *active_[i];
    if (transfer.is_beaten()) {
      transfer.end(CURLE_OK);
      retire(transfer);
    } else {
      ++i;
    }
  }
}

void Lane::retire(Transfer& transfer) {
  curl_multi_remove_handle(multi_, transfer.easy());
  active_[transfer.index] = active_.back();
  active_[transfer.index]->index = transfer.index;
  active_.pop_back();
  spare_.push_back(&transfer);

  Flight& flight = transfer.flight();
  const Request& request = flight.exchange.request;
  const bool is_hedge = transfer.is_hedge();
  const bool beaten = transfer.is_beaten();
  Transfer*& mine = flight.transfers[is_hedge ? 1 : 0];
  Transfer* other = flight.transfers[is_hedge ? 0 : 1];
  const Instant now = now_monotonic();
  const Answer how = beaten ? Answer::abandoned : answer_of(transfer.response());
  shared_.stats.note(request.operation, request.klass, how, now - transfer.started());
  if (how == Answer::slow_down) shared_.slow_down(request.klass, now);
  if (request.operation == Operation::get && (how == Answer::ok || beaten)) {
    // Of a beaten one at least this is known; leaving it out would make a fair-weather p95.
    const Duration after = transfer.first_byte_after().value_or(now - transfer.started());
    shared_.with_hedging([after](HedgePolicy& policy) { policy.note_first_byte(after); });
    if (is_hedge && !beaten) ++shared_.stats.hedges_won;
  }
  const bool owner = flight.owner == &transfer;
  Response response = transfer.take_response();
  mine = nullptr;
  // What failed while its twin goes on is forgotten, unless it was the one that wrote.
  if (beaten || (other != nullptr && !owner)) return;
  if (other != nullptr) {
    other->end(CURLE_OK);
    retire(*other);
  }
  answer(flight, std::move(response));
}

void Lane::answer(Flight& flight, Response response) {
  Exchange& exchange = flight.exchange;
  exchange.response = std::move(response);
  const u32 klass = static_cast<u32>(exchange.request.klass);
  --in_flight_[klass];
  --shared_.stats.in_flight[klass];
  flights_.remove_if([&](const Flight& candidate) { return &candidate == &flight; });
  mailbox_.deliver(exchange);
}

void Lane::look_at_clock(Instant now) {
  next_look_ = now + look_every_;
  for (std::size_t i = 0; i < active_.size();) {
    Transfer& transfer = *active_[i];
    if (transfer.is_late(now)) {
      transfer.end(transfer.lateness());
      retire(transfer);  // moves another one to this place
    } else {
      ++i;
    }
  }
  for (Flight& flight : flights_) {
    if (flight.hedge_at <= now) hedge(flight, now);
    next_look_ = std::min(next_look_, flight.hedge_at);
  }
}

void Lane::hedge(Flight& flight, Instant now) {
  flight.hedge_at = Instant::max();
  if (flight.owner != nullptr || flight.transfers[0] == nullptr) return;
  if (flight.transfers[0]->has_status()) return;
  const bool paid = shared_.with_hedging([](HedgePolicy& policy) { return policy.spend(); });
  if (!paid) return;
  ++shared_.stats.hedges;
  launch(flight, now);
  // libcurl is told at the next turn, which must not wait for a socket.
  hedged_ = true;
}

void Lane::close_idle_connections() {
  // libcurl closes idle connections only when it looks for one; a new multi handle has none.
  const std::scoped_lock lock(mutex_);
  curl_multi_cleanup(multi_);
  multi_ = make_multi();
  connections_ = false;
  // A wake-up for what came in between went to the old handle.
  if (!submitted_.empty() || stopping_) curl_multi_wakeup(multi_);
}

void Lane::sleep(Instant now) {
  if (std::exchange(hedged_, false)) return;
  Duration wait = std::chrono::hours(1);
  if (!active_.empty()) {
    idle_since_ = Instant::max();
    wait = std::max(Duration{}, next_look_ - now);
  } else if (connections_) {
    const Duration idle = shared_.config.deadlines.idle;
    idle_since_ = std::min(idle_since_, now);
    if (now - idle_since_ >= idle) {
      close_idle_connections();
      return;
    }
    wait = idle_since_ + idle - now;
  }
  // Rounded up, or the last millisecond would be spent polling.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  curl_multi_poll(multi_, nullptr, 0, static_cast<int>(ms), nullptr);
}

}  // namespace zerofs::s3
