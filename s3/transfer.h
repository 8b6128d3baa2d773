// One HTTP request on one reusable libcurl handle: builds and signs it, sends the body from the
// caller's bytes, and writes what comes straight to where it belongs.
//
// A transfer never decides what an answer means; it only says whether it was whole. Two transfers
// may serve one flight (a hedged GET): the first one to have a status line below 500 owns the
// flight, and only the owner writes to the caller's buffer.
#pragma once

#include <curl/curl.h>

#include "s3/shared.h"

namespace zerofs::s3 {

class Transfer;

// An exchange under way.
struct Flight {
  Exchange& exchange;
  std::array<Transfer*, 2> transfers{};
  Transfer* owner = nullptr;
  Instant hedge_at = Instant::max();
};

class Transfer {
 public:
  explicit Transfer(Shared& shared);
  ~Transfer();
  Transfer(const Transfer&) = delete;

  CURL* easy() const { return easy_; }
  Flight& flight() const { return *flight_; }
  static Transfer& of(CURL* easy);

  // Prepares the handle for a first or second try at the flight's request.
  void begin(Flight& flight, Signer& signer, Instant now);
  // libcurl is done with it, with this result. Fills in what was a failure.
  void end(CURLcode code);
  void end(Failure failure);
  // Detaches from the flight; the response is empty afterwards.
  Response take_response();

  // When this transfer is late. Time goes on from the last byte that moved.
  Instant deadline() const;
  // It is: but bytes may still be leaving the kernel's buffer, which libcurl cannot see.
  bool is_late(Instant now);
  Failure lateness() const;

  bool has_status() const { return response_.status != 0; }
  bool is_beaten() const { return flight_->owner != nullptr && flight_->owner != this; }
  const Response& response() const { return response_; }
  Instant started() const { return started_; }
  std::optional<Duration> first_byte_after() const { return first_byte_after_; }
  bool is_hedge() const { return flight_->transfers[1] == this; }

  std::size_t index = 0;  // in the lane's list

 private:
  void set_constant_options();
  void set_method(const Request& request);
  void set_headers(const Request& request, const Place& place, Signer& signer);
  void add_header(std::string_view name, std::string_view value);
  std::string range_header(const Request& request) const;
  std::vector<Header> headers_to_sign(const Request& request, const Place& place,
                                      const std::string& payload_hash, WallTime now) const;

  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t on_write(char* data, std::size_t size, std::size_t count, void* self);
  static std::size_t on_read(char* out, std::size_t size, std::size_t count, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin);
  static int on_connected(void* self, char*, char*, int, int);
  void header_line(std::string_view line);
  bool headers_end();
  bool take_body(Bytes bytes);
  bool take_object_bytes(Bytes bytes);

  Shared& shared_;
  CURL* easy_;
  curl_slist* headers_ = nullptr;
  char error_[CURL_ERROR_SIZE] = {};

  Flight* flight_ = nullptr;
  Response response_;
  Instant started_{};
  Instant progress_{};    // of the last byte in either direction
  Instant end_of_all_{};  // however steadily it trickles
  std::optional<Duration> first_byte_after_;
  u64 body_sent_ = 0;
  u64 skip_ = 0;          // body bytes before the wanted ones: the server ignored the range
  i32 unsent_bytes_ = 0;  // in the kernel, when last looked at
  bool connected_ = false;
  bool streams_body_ = false;
  bool headers_done_ = false;
};

}  // namespace zerofs::s3
