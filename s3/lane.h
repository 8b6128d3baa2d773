// A thread that runs libcurl for some of the classes, with connections of its own: log objects have
// a lane to themselves, so that no amount of bulk delays them or takes their warm connections.
//
// A turn: take what was submitted; start what the caps allow; let libcurl move bytes; finish what
// is done; end what is late, send second tries of what is slow; sleep until a socket, a deadline
// or a submission. Idle, it sleeps for good, after it has closed its idle connections.
#pragma once

#include <deque>
#include <list>
#include <thread>

#include "s3/transfer.h"

namespace zerofs::s3 {

class Lane {
 public:
  Lane(Shared& shared, Mailbox& mailbox, const char* thread_name);
  // Nothing may be under way.
  ~Lane();
  Lane(const Lane&) = delete;

  // Any thread. `exchange` stays in place until the mailbox delivered it.
  void submit(Exchange& exchange);

 private:
  void run();
  void take_submitted();
  void start_waiting(Instant now);
  void launch(Flight& flight, Instant now);
  void finish_done();
  // The transfer is over: it leaves libcurl and gives its answer to the flight, if it counts.
  void retire(Transfer& transfer);
  void answer(Flight& flight, Response response);
  void look_at_clock(Instant now);
  void hedge(Flight& flight, Instant now);
  void close_idle_connections();
  void sleep(Instant now);

  Shared& shared_;
  Mailbox& mailbox_;
  const Duration look_every_;

  std::mutex mutex_;  // guards multi_ against being exchanged, submitted_ and stopping_
  CURLM* multi_;
  std::vector<Exchange*> submitted_;
  bool stopping_ = false;

  // The lane's thread alone.
  Signer signer_;
  std::array<std::deque<Exchange*>, kClasses> waiting_;
  std::array<u32, kClasses> in_flight_{};
  std::list<Flight> flights_;
  std::vector<Transfer*> active_;
  std::vector<std::unique_ptr<Transfer>> all_;
  std::vector<Transfer*> spare_;
  std::vector<Exchange*> taken_;
  Instant next_look_ = Instant::max();
  Instant idle_since_ = Instant::max();
  bool connections_ = false;  // libcurl may keep some
  bool hedged_ = false;       // in this turn: libcurl does not know of it yet

  std::thread thread_;
};

}  // namespace zerofs::s3
