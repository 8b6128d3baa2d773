// A blocking NBD client for tests: it says exactly what it is told to, legal or not, and checks the
// form of what comes back. Every wait has a deadline; trouble is an exception.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "nbd/wire.h"

namespace zerofs::nbd::test {

struct ReplyChunk {
  u16 flags = 0;
  u16 type = 0;
  std::string payload;
};

// One whole answer: of a structured one all its chunks.
struct Reply {
  u64 cookie = 0;
  u32 error = 0;
  std::string data;                // of a READ, holes as zeroes
  std::vector<ReplyChunk> chunks;  // empty for a simple reply
};

struct Extent {
  u32 bytes;
  u32 state;
  friend bool operator==(const Extent&, const Extent&) = default;
};

class Client {
 public:
  explicit Client(const std::string& unix_path);
  explicit Client(u16 port);  // on 127.0.0.1
  ~Client();
  Client(const Client&) = delete;

  // ---- haggling
  void hello(u32 flags = kFlagFixedNewstyle | kFlagNoZeroes);
  struct Answer {
    u32 type;
    std::string payload;
  };
  // All answers to one option, the final one last.
  std::vector<Answer> option(u32 number, std::string_view payload = {});
  struct Wish {
    bool structured = false;
    bool context = false;
  };
  // hello, the wishes, GO. Yields the size.
  u64 attach(std::string_view name, Wish wish);

  // ---- transmission
  u64 send_request(Command command, u64 offset, u32 length, u32 flags = 0,
                   std::string_view payload = {});
  Reply receive();
  // One request, one answer: its error.
  Reply ask(Command command, u64 offset, u32 length, u32 flags = 0, std::string_view payload = {});
  std::string read(u64 offset, u32 length);  // throws unless it succeeds
  u32 write(u64 offset, std::string_view data, u32 flags = 0);
  u32 flush() { return ask(Command::flush, 0, 0).error; }
  std::vector<Extent> block_status(u64 offset, u32 length, u32 flags = 0);

  // ---- bytes
  void send(std::string_view bytes);
  std::string receive_bytes(std::size_t count);
  // Whether the server closes without sending anything more.
  bool closed_by_server();
  int descriptor() const { return fd_; }

 private:
  struct Pending {
    Command command;
    u64 offset;
    u32 length;
  };
  template <class T>
  T receive_struct() {
    return struct_from<T>(bytes_of(receive_bytes(sizeof(T))));
  }
  void receive_chunks(const ChunkHeader& first, Reply& reply);

  int fd_ = -1;
  bool structured_ = false;
  u64 next_cookie_ = 0xc00c1e0000000001;
  std::map<u64, Pending> pending_;
};

}  // namespace zerofs::nbd::test
