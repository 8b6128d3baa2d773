#include "tests/nbd/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>

namespace zerofs::nbd::test {

namespace {

constexpr timeval kPatience = {.tv_sec = 20, .tv_usec = 0};

[[noreturn]] void give_up(const std::string& why) {
  throw std::runtime_error(why);
}

int connect_to(const sockaddr* address, socklen_t length) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (connect(fd, address, length) != 0) {
    close(fd);
    give_up("connect: errno " + std::to_string(errno));
  }
  return fd;
}

template <class T>
void append(std::string& out, const T& value) {
  out += text_of(struct_bytes(value));
}

std::string text(std::string_view value) {
  std::string out;
  append(out, Be<u32>(static_cast<u32>(value.size())));
  return out + std::string(value);
}

}  // namespace

Client::Client(const std::string& unix_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  unix_path.copy(address.sun_path, sizeof address.sun_path - 1);
  fd_ = connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

Client::Client(u16 port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  fd_ = connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

Client::~Client() {
  close(fd_);
}

void Client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) give_up("send: errno " + std::to_string(errno));
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

std::string Client::receive_bytes(std::size_t count) {
  std::string out(count, '\0');
  for (std::size_t at = 0; at < count;) {
    const ssize_t got = recv(fd_, out.data() + at, count - at, 0);
    if (got == 0) give_up("the server closed the connection");
    if (got < 0) give_up("recv: errno " + std::to_string(errno));
    at += static_cast<std::size_t>(got);
  }
  return out;
}

bool Client::closed_by_server() {
  char byte;
  const ssize_t got = recv(fd_, &byte, 1, 0);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

void Client::hello(u32 flags) {
  const auto greeting = receive_struct<Greeting>();
  if (greeting.init_magic != kInitMagic || greeting.option_magic != kOptionMagic) {
    give_up("greeting");
  }
  std::string out;
  append(out, Be<u32>(flags));
  send(out);
}

std::vector<Client::Answer> Client::option(u32 number, std::string_view payload) {
  OptionHeader header;
  header.magic = kOptionMagic;
  header.option = number;
  header.length = static_cast<u32>(payload.size());
  std::string out;
  append(out, header);
  send(out + std::string(payload));
  std::vector<Answer> answers;
  for (;;) {
    const auto reply = receive_struct<OptionReply>();
    if (reply.magic != kOptionReplyMagic || reply.option != number) give_up("option reply");
    answers.push_back({reply.type, receive_bytes(reply.length)});
    const u32 type = reply.type;
    if (type == kRepAck || (type & 0x8000'0000) != 0) return answers;
  }
}

u64 Client::attach(std::string_view name, Wish wish) {
  hello();
  if (wish.structured) {
    if (option(static_cast<u32>(Option::structured_reply)).back().type != kRepAck) {
      give_up("no structured replies");
    }
    structured_ = true;
  }
  if (wish.context) {
    std::string payload = text(name);
    append(payload, Be<u32>(1));
    payload += text("base:allocation");
    if (option(static_cast<u32>(Option::set_meta_context), payload).size() != 2) {
      give_up("no meta context");
    }
  }
  std::string payload = text(name);
  append(payload, Be<u16>(0));
  const std::vector<Answer> answers = option(static_cast<u32>(Option::go), payload);
  if (answers.back().type != kRepAck) give_up("GO is refused");
  return struct_from<Be<u64>>(bytes_of(answers.front().payload).subspan(2));
}

u64 Client::send_request(Command command, u64 offset, u32 length, u32 flags,
                         std::string_view payload) {
  RequestHeader header;
  header.magic = kRequestMagic;
  header.flags = static_cast<u16>(flags);
  header.type = static_cast<u16>(command);
  header.cookie = next_cookie_;
  header.offset = offset;
  header.length = length;
  pending_[next_cookie_] = {command, offset, length};
  std::string out;
  append(out, header);
  send(out + std::string(payload));
  return next_cookie_++;
}

void Client::receive_chunks(const ChunkHeader& first, Reply& reply) {
  const auto at = pending_.find(reply.cookie);
  if (at == pending_.end()) give_up("a cookie that nobody waits for");
  const Pending request = at->second;
  std::vector<bool> seen(request.command == Command::read ? request.length : 0);
  reply.data.resize(seen.size());
  ChunkHeader header = first;
  for (;;) {
    if (header.magic != kStructuredReplyMagic || header.cookie != reply.cookie) {
      give_up("chunks of several replies are mixed, or not chunks");
    }
    reply.chunks.push_back({header.flags, header.type, receive_bytes(header.length)});
    const ReplyChunk& chunk = reply.chunks.back();
    const Bytes payload = bytes_of(chunk.payload);
    const auto type = static_cast<Chunk>(chunk.type);
    if (type == Chunk::offset_data || type == Chunk::offset_hole) {
      const u64 offset = struct_from<Be<u64>>(payload) - request.offset;
      const bool hole = type == Chunk::offset_hole;
      const u64 bytes = hole ? u64{struct_from<Be<u32>>(payload.subspan(8))} : payload.size() - 8;
      if (offset + bytes > seen.size() || bytes == 0) give_up("a chunk outside the request");
      for (u64 i = offset; i < offset + bytes; ++i) {
        if (seen[i]) give_up("a byte came twice");
        seen[i] = true;
      }
      if (!hole) reply.data.replace(offset, bytes, chunk.payload, 8);
    } else if ((chunk.type & 0x8000) != 0) {
      reply.error = struct_from<Be<u32>>(payload);
    }
    if ((chunk.flags & kChunkDone) != 0) break;
    header = receive_struct<ChunkHeader>();
  }
  if (reply.error == 0) {
    for (const bool byte_came : seen) {
      if (!byte_came) give_up("a byte never came");
    }
  }
}

Reply Client::receive() {
  const std::string magic = receive_bytes(4);
  Reply reply;
  if (struct_from<Be<u32>>(bytes_of(magic)) == kStructuredReplyMagic) {
    const std::string whole = magic + receive_bytes(sizeof(ChunkHeader) - 4);
    const auto header = struct_from<ChunkHeader>(bytes_of(whole));
    reply.cookie = header.cookie;
    receive_chunks(header, reply);
  } else {
    const std::string whole = magic + receive_bytes(sizeof(SimpleReply) - 4);
    const auto header = struct_from<SimpleReply>(bytes_of(whole));
    if (header.magic != kSimpleReplyMagic) give_up("reply magic");
    reply.cookie = header.cookie;
    reply.error = header.error;
    const auto at = pending_.find(reply.cookie);
    if (at == pending_.end()) give_up("a cookie that nobody waits for");
    const bool is_read = at->second.command == Command::read;
    if (is_read && structured_) give_up("a simple reply to READ, though structured");
    if (is_read && reply.error == 0) reply.data = receive_bytes(at->second.length);
  }
  pending_.erase(reply.cookie);
  return reply;
}

Reply Client::ask(Command command, u64 offset, u32 length, u32 flags, std::string_view payload) {
  const u64 cookie = send_request(command, offset, length, flags, payload);
  Reply reply = receive();
  if (reply.cookie != cookie) give_up("another request was answered");
  return reply;
}

std::string Client::read(u64 offset, u32 length) {
  Reply reply = ask(Command::read, offset, length);
  if (reply.error != 0) give_up("read: error " + std::to_string(reply.error));
  return std::move(reply.data);
}

u32 Client::write(u64 offset, std::string_view data, u32 flags) {
  return ask(Command::write, offset, static_cast<u32>(data.size()), flags, data).error;
}

std::vector<Extent> Client::block_status(u64 offset, u32 length, u32 flags) {
  const Reply reply = ask(Command::block_status, offset, length, flags);
  if (reply.error != 0 || reply.chunks.size() != 1) give_up("block status");
  const ReplyChunk& chunk = reply.chunks[0];
  if (chunk.type != static_cast<u16>(Chunk::block_status)) give_up("block status: chunk");
  Bytes rest = bytes_of(chunk.payload);
  if (rest.size() % 8 != 4 || struct_from<Be<u32>>(rest) != 1) give_up("block status: context");
  std::vector<Extent> extents;
  for (rest = rest.subspan(4); !rest.empty(); rest = rest.subspan(8)) {
    extents.push_back({struct_from<Be<u32>>(rest), struct_from<Be<u32>>(rest.subspan(4))});
  }
  return extents;
}

}  // namespace zerofs::nbd::test
