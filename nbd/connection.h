// One NBD connection: handshake, then requests that run concurrently and answer out of order.
//
// The hot path has no coroutine: a turn parses every request that has arrived, answers what the
// page cache can answer by appending to the reply queue, and sends the queue once at the end of the
// turn. What has to wait (a cold read, a full cache, a flush) becomes a coroutine of this
// connection's gate.
//
// The payload of a large WRITE is received window by window where it will stay: page-aligned parts
// straight into pages of the slab. Only one window is held, however large the request.
#pragma once

#include "nbd/negotiation.h"
#include "nbd/reply_queue.h"
#include "nbd/request.h"
#include "nbd/server.h"

namespace zerofs::nbd {

// What one connection may hold before its socket is not read any further; all of them together:
// budget.h.
constexpr u64 kHeldBytesMax = 8 * kMiB;   // see Connection::held()
constexpr u32 kRequestsMax = 1024;        // in progress
constexpr u32 kQueuedVectorsMax = 16384;  // of replies
constexpr u32 kRequestsPerTurn = 512;     // then other connections get their turn
constexpr u32 kLookAheadMax = 16;
constexpr std::size_t kInputBytesMin = 16 * kKiB;
constexpr std::size_t kInputBytesMax = 256 * kKiB;
constexpr u32 kDirectBytesMin = 32 * kKiB;    // payloads from here on bypass the input buffer
constexpr u32 kWindowBytes = 256 * kKiB;      // of such a payload, held at a time…
constexpr u32 kTightWindowBytes = 16 * kKiB;  // … and while the budget is tight
constexpr u32 kPartBytes = kMiB;              // a longer read is answered in parts, if it may be

Errno errno_of(const Error& error);

class Connection final : private TurnHook, private ExportDirectory {
 public:
  Connection(Server& server, int fd);
  ~Connection() override;

  // From the greeting to the end of everything; the connection may be destroyed then.
  Task<> run();
  // Answers what is in progress, ESHUTDOWN to what comes, then ends.
  void shut_down();
  // Ends without answering.
  void kill();
  const Volume* volume() const { return volume_.get(); }
  // Other connections hold less now.
  void budget_freed();
  // Since when a peer that holds bytes neither takes nor sends any.
  std::optional<Instant> stalled_since() const;

 private:
  // Forwards a completion to a member function.
  struct Op final : IoOp {
    using Handler = void (Connection::*)(i32);
    Op(Connection& connection, Handler handler) : connection(connection), handler(handler) {}
    void complete(i32 result, u32) override { (connection.*handler)(result); }
    Connection& connection;
    Handler handler;
  };
  struct HandshakeTimer final : Timer {
    explicit HandshakeTimer(Connection& connection) : connection(connection) {}
    void fire() override { connection.kill(); }
    Connection& connection;
  };
  // A WRITE whose payload is being received where it will stay, and its window.
  struct Direct {
    Request request;
    u32 done = 0;                         // bytes of the request before the window
    u32 bytes = 0;                        // of the window
    u32 received = 0;                     // … that have come
    std::vector<cache::PageIndex> pages;  // a page-aligned window…
    Buffer body;                          // …any other
    Errno error = Errno::ok;              // the first one; what follows is only received
    std::vector<iovec> vectors;
    msghdr message{};
    u64 offset() const { return request.offset + done; }
  };

  // ExportDirectory
  std::optional<ExportView> find(std::string_view name) override;
  std::vector<ExportView> list() override;

  // Input
  void arm_receive();
  void received(i32 result);
  void process();
  void negotiate();
  void begin_transmission();
  u64 bytes_held_by(const Request& request) const;
  u32 part_bytes() const;
  bool is_answered_in_parts(const Request& request) const {
    return structured_ && (request.flags & kCmdDf) == 0 && request.length > kPartBytes;
  }
  u32 look_ahead();
  u32 parse_requests();
  bool take_write(const ParsedRequest& parsed);
  void make_input_room(std::size_t wanted);
  u64 held() const;
  void account();
  bool must_pause(u64 more);
  void resume_later();
  void continued(i32 result);

  // Large payloads
  void next_window();
  Task<> wait_for_pages();
  MutableBytes window_at(u32 at);
  void receive_window();
  void window_received(i32 result);
  void apply_window();
  Task<> apply_window_slowly();
  void window_applied();

  // Execution
  void execute(const Request& request);
  bool reading_fast(const Request& request);
  void after_change(const Request& request);
  Task<> slow_write(Request request, Buffer data);
  Task<> finish_durably(Request request);
  Task<> run_command(Request request);
  Task<> read_slow(Request request);
  Task<> send_parts(const Request& request);
  Task<> block_status(Request request);

  // Output
  void reply_ok(u64 cookie);
  void reply_error(const Request& request, Errno error);
  void reply_result(const Request& request, const Result<>& result);
  void reply_read(u64 cookie, u64 offset, std::span<const Piece> pieces, bool last, bool whole);
  void queue_output();
  void end_of_turn() override;
  void send_now();
  void send_more();
  void sent(i32 result);

  void stop_reading();
  void look_at_end();
  bool ended() const;

  Server& server_;
  Reactor& reactor_;
  Db& db_;
  int fd_;
  Negotiation negotiation_;
  bool transmitting_ = false;
  bool structured_ = false;
  bool has_context_ = false;
  std::shared_ptr<Volume> volume_;

  Buffer input_;
  std::size_t begin_ = 0;  // unparsed bytes are [begin_, end_)
  std::size_t end_ = 0;
  u64 drain_bytes_ = 0;  // of a refused payload, still to come
  std::unique_ptr<Direct> direct_;
  bool window_waits_ = false;  // for pages, or to be applied

  ReplyQueue output_;
  msghdr message_{};
  std::vector<Piece> pieces_;  // scratch of the fast path

  bool receiving_ = false;
  bool sending_ = false;
  bool paused_ = false;
  bool continuing_ = false;  // a nop is in the ring, to go on next turn
  bool reading_ = true;      // more input is wanted
  bool shutting_down_ = false;
  bool dead_ = false;
  u64 waiting_bytes_ = 0;  // payloads of WRITEs in progress
  u64 reading_bytes_ = 0;  // of READs in progress
  u64 charged_bytes_ = 0;  // of the budget
  Instant progress_{};     // of the transfer that the socket makes us wait for

  Op receive_op_;
  Op direct_op_;
  Op send_op_;
  Op continue_op_;
  HandshakeTimer handshake_timer_;
  Event changed_;  // perhaps the end
  Event drained_;  // output was sent
  Gate gate_;
};

}  // namespace zerofs::nbd
