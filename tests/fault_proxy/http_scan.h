// Follows one direction of an HTTP/1.1 connection cheaply: finds heads, skips bodies by their
// length. Bytes that are not HTTP (TLS) are passed over in silence, for good.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fault_proxy {

class HttpScan {
 public:
  enum class Event : std::uint8_t {
    none,  // all bytes were taken, nothing ended
    head,  // a head ended: `head()` is its text
    end,   // a body ended; a message without a body ends with its head
  };
  struct Step {
    std::size_t taken = 0;
    Event event = Event::none;
  };

  // Takes bytes up to the next event. A message without a length goes on until `restart`.
  Step feed(std::string_view bytes);
  // The next byte begins a message.
  void restart();

  const std::string& head() const { return head_; }         // with its empty line
  std::uint64_t body_bytes() const { return body_bytes_; }  // that the head announced
  bool in_head() const { return state_ == State::head; }
  bool is_http() const { return state_ != State::opaque; }

 private:
  enum class State : std::uint8_t { head, body, endless, opaque };
  void read_length();

  State state_ = State::head;
  std::string head_;
  bool head_done_ = false;
  std::uint64_t body_bytes_ = 0;
  std::uint64_t left_ = 0;
};

// "PUT" of "PUT /bucket/name HTTP/1.1\r\n…"; of a response, the status.
std::string_view method_of(std::string_view head);
int status_of(std::string_view head);

}  // namespace fault_proxy
