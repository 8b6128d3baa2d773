// Goal: the server keeps the protocol's promises on a real database, whatever clients do.
// Method: raw clients on threads; each case one promise, or one kind of misbehaviour.
#include "nbd/server.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/nbd/site.h"

namespace zerofs::nbd {
namespace {

using test::Client;
using test::Reply;
using test::Site;

constexpr u32 kOk = 0, kInval = 22, kNospc = 28, kOverflow = 75, kNotsup = 95, kShutdown = 108;

std::string pattern(u64 seed, std::size_t bytes) {
  std::string out(bytes, '\0');
  u64 x = seed * 0x9e3779b97f4a7c15 + 1;
  for (char& c : out) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    c = static_cast<char>(x);
  }
  return out;
}

TEST_CASE("what is written is read, by any alignment, with both kinds of replies") {
  Site site;
  site.create_volume("disk", 8 * kMiB);
  for (const bool structured : {false, true}) {
    site.client([&] {
      Client client(site.path);
      CHECK(client.attach("disk", {.structured = structured}) == 8 * kMiB);
      for (const auto& [offset, bytes] : std::vector<std::pair<u64, u32>>{{0, 4096},
                                                                          {4096, 1},
                                                                          {5000, 4096},
                                                                          {8191, 2},
                                                                          {100'000, 300'000},
                                                                          {kMiB, 65536},
                                                                          {8 * kMiB - 1, 1},
                                                                          {3, 2 * kMiB + 7},
                                                                          {0, 4 * kMiB}}) {
        const std::string data = pattern(offset + bytes, bytes);
        CHECK(client.write(offset, data) == kOk);
        CHECK((client.read(offset, bytes) == data));
      }
    });
  }
}

TEST_CASE("both listeners, the default export, the flags of the export") {
  Site site;
  site.create_volume("disk", 123 * 512);
  site.client([&] {
    Client client(site.port);
    CHECK(client.attach("", {}) == 123 * 512);
    CHECK(client.write(123 * 512 - 3, "end") == kOk);
    Client other(site.path);
    CHECK(other.attach("disk", {}) == 123 * 512);
    CHECK(other.read(123 * 512 - 3, 3) == "end");
  });
}

TEST_CASE("holes come as holes, with DF in one piece") {
  Site site;
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {.structured = true});
    client.write(8192, pattern(1, 4096));
    Reply reply = client.ask(Command::read, 4096, 12288);
    REQUIRE(reply.chunks.size() == 3);
    CHECK(reply.chunks[0].type == static_cast<u16>(Chunk::offset_hole));
    CHECK(reply.chunks[0].flags == 0);
    CHECK(reply.chunks[1].type == static_cast<u16>(Chunk::offset_data));
    CHECK(reply.chunks[2].type == static_cast<u16>(Chunk::offset_hole));
    CHECK(reply.chunks[2].flags == kChunkDone);
    CHECK((reply.data == std::string(4096, '\0') + pattern(1, 4096) + std::string(4096, '\0')));
    reply = client.ask(Command::read, 4096, 12288, kCmdDf);
    REQUIRE(reply.chunks.size() == 1);
    CHECK(reply.chunks[0].type == static_cast<u16>(Chunk::offset_data));
    CHECK((reply.data == std::string(4096, '\0') + pattern(1, 4096) + std::string(4096, '\0')));
    reply = client.ask(Command::read, 0, 0);
    CHECK(reply.error == kOk);
  });
}

TEST_CASE("refused requests leave the stream whole") {
  Site site;
  site.create_volume("disk", 64 * kMiB);
  for (const bool structured : {false, true}) {
    site.client([&] {
      Client client(site.path);
      client.attach("disk", {.structured = structured});
      const auto refused = [&](Command command, u64 offset, u32 length, u32 flags) {
        const std::string payload(command == Command::write ? length : 0, 'x');
        const u32 error = client.ask(command, offset, length, flags, payload).error;
        CHECK(client.read(0, 1).size() == 1);
        return error;
      };
      CHECK(refused(Command::write, 64 * kMiB - 1, 2, 0) == kNospc);
      CHECK(refused(Command::write, 64 * kMiB - 1, 2 * kMiB, 0) == kNospc);
      CHECK(refused(Command::write, 0, 33 * kMiB, 0) == kInval);
      CHECK(refused(Command::write, 0, 4096, kCmdReqOne) == kInval);
      CHECK(refused(Command::read, 64 * kMiB, 1, 0) == kInval);
      CHECK(refused(Command::read, 0, 1, kCmdDf) == (structured ? kOk : kInval));
      CHECK(refused(Command::flush, 1, 0, 0) == kInval);
      CHECK(refused(static_cast<Command>(99), 0, 0, 0) == kInval);
      CHECK(refused(Command::block_status, 0, 512, 0) == kInval);
      CHECK(refused(Command::trim, ~u64{0}, 1, 0) == kInval);
      CHECK(refused(Command::read, 0, 33 * kMiB, kCmdDf) == (structured ? kOverflow : kInval));
      if (!structured) CHECK(refused(Command::read, 0, 33 * kMiB, 0) == kInval);
    });
  }
}

TEST_CASE("the end of a session: a wrong magic, an endless payload, DISC") {
  Site site;
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client good(site.path);
    good.attach("disk", {});
    Client bad(site.path);
    bad.attach("disk", {});
    bad.send(std::string(28, '\xff'));
    CHECK(bad.closed_by_server());
    Client endless(site.path);
    endless.attach("disk", {});
    endless.send_request(Command::write, 0, 65 * kMiB);
    CHECK(endless.closed_by_server());
    Client polite(site.path);
    polite.attach("disk", {});
    polite.send_request(Command::write, 0, 5, kCmdFua, "hello");
    polite.send_request(Command::disconnect, 0, 0);
    CHECK(polite.receive().error == kOk);
    CHECK(polite.closed_by_server());
    CHECK(good.read(0, 5) == "hello");
  });
}

TEST_CASE("large requests: the payload limit, over it in parts") {
  Site site;
  site.create_volume("disk", 80 * kMiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {.structured = true});
    const std::string data = pattern(5, 32 * kMiB);
    CHECK(client.write(0, data) == kOk);
    CHECK((client.read(0, 32 * kMiB) == data));
    CHECK(client.write(32 * kMiB + 1, data) == kOk);
    CHECK((client.read(32 * kMiB + 1, 32 * kMiB) == data));
    const Reply reply = client.ask(Command::read, 1, 70 * kMiB);
    CHECK(reply.error == kOk);
    CHECK((reply.data.substr(0, 32 * kMiB - 1) == data.substr(1)));
    CHECK((reply.data.substr(32 * kMiB, 32 * kMiB) == data));
  });
}

TEST_CASE("trim and zeroes") {
  Site site;
  site.create_volume("disk", 16 * kTiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {.structured = true, .context = true});
    const auto fill = [&] { CHECK(client.write(0, std::string(kMiB, 'x')) == kOk); };
    const std::string x(4096, 'x'), zero(4096, '\0');

    fill();
    CHECK(client.ask(Command::trim, 4096, 8192).error == kOk);
    CHECK((client.read(0, 4 * 4096) == x + zero + zero + x));
    // Parts of pages: a trim leaves them alone, zeroes are exact.
    fill();
    CHECK(client.ask(Command::trim, 4095, 4098).error == kOk);
    CHECK((client.read(0, 3 * 4096) == x + zero + x));
    fill();
    CHECK(client.ask(Command::write_zeroes, 4095, 4098).error == kOk);
    CHECK((client.read(0, 3 * 4096) == x.substr(1) + std::string(4098, '\0') + x.substr(1)));
    // NO_HOLE stays allocated; without it there is a hole.
    fill();
    CHECK(client.ask(Command::write_zeroes, 0, 8192, kCmdNoHole | kCmdFastZero).error == kOk);
    CHECK(client.ask(Command::write_zeroes, 8192, 8192, kCmdFastZero).error == kOk);
    const std::vector<test::Extent> expected = {{8192, kStateZero},
                                                {8192, kStateZero | kStateHole},
                                                {kMiB - 16384, 0},
                                                {kMiB, kStateZero | kStateHole}};
    CHECK((client.block_status(0, 2 * kMiB) == expected));
    // What cannot be fast is refused at once and changes nothing; answered once.
    fill();
    CHECK(client.ask(Command::write_zeroes, 1, 8192, kCmdFastZero).error == kNotsup);
    CHECK((client.read(0, 4096) == x));
    // Any length.
    for (u32 i = 0; i < 64; ++i) {
      const u64 offset = i * u64{4294966784};
      CHECK(client.ask(Command::trim, offset, 4294966784).error == kOk);
    }
    CHECK((client.read(0, 4096) == zero));
    CHECK(client.ask(Command::write_zeroes, 1, 4294966784).error == kOk);
  });
}

TEST_CASE("block status") {
  Site site;
  site.create_volume("disk", 4 * kGiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {.structured = true, .context = true});
    using Extents = std::vector<test::Extent>;
    const u32 hole = kStateHole | kStateZero;
    CHECK((client.block_status(0, 0xffff'fe00) == Extents{{0xffff'fe00, hole}}));
    CHECK(client.write(kMiB, std::string(8192, 'x')) == kOk);
    CHECK((client.block_status(0, 2 * kMiB) ==
           Extents{{kMiB, hole}, {8192, 0}, {kMiB - 8192, hole}}));
    CHECK((client.block_status(0, 2 * kMiB, kCmdReqOne) == Extents{{kMiB, hole}}));
    CHECK((client.block_status(kMiB, 4096, kCmdReqOne) == Extents{{4096, 0}}));
    CHECK((client.block_status(kMiB + 512, 512) == Extents{{512, 0}}));
    CHECK(client.flush() == kOk);
    CHECK((client.block_status(kMiB, 2 * kMiB, kCmdReqOne) == Extents{{8192, 0}}));
  });
}

TEST_CASE("FLUSH and FUA survive a crash, what was trimmed stays trimmed") {
  Site site;
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client writer(site.path), other(site.path);
    writer.attach("disk", {});
    other.attach("disk", {});
    CHECK(writer.write(0, "one") == kOk);
    CHECK(other.flush() == kOk);  // covers what was answered on any connection
    CHECK(writer.write(4096, "two", kCmdFua) == kOk);
    CHECK(writer.write(8192, std::string(4096, 'x'), kCmdFua) == kOk);
    CHECK(writer.ask(Command::trim, 8192, 4096, kCmdFua).error == kOk);
    CHECK(writer.write(12288, std::string(4096, 'x'), kCmdFua) == kOk);
    CHECK(writer.ask(Command::write_zeroes, 12288, 4096, kCmdFua).error == kOk);
    CHECK(writer.flush() == kOk);  // nothing is dirty: at once
  });
  site.crash();
  site.open();
  site.client([&] {
    Client client(site.path);
    CHECK(client.attach("disk", {}) == kMiB);
    CHECK(client.read(0, 3) == "one");
    CHECK(client.read(4096, 3) == "two");
    CHECK((client.read(8192, 8192) == std::string(8192, '\0')));
  });
}

TEST_CASE("a flush that waits holds up nothing else") {
  Site site;
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {});
    CHECK(client.write(0, "early") == kOk);
    site.on_server([&] { site.store.stall(true); });
    const u64 flush = client.send_request(Command::flush, 0, 0);
    const u64 fua = client.send_request(Command::write, 4096, 3, kCmdFua, "fua");
    // Answered although the flush came first.
    const u64 read = client.send_request(Command::read, 0, 5);
    Reply reply = client.receive();
    CHECK(reply.cookie == read);
    CHECK(reply.data == "early");
    site.on_server([&] { site.store.stall(false); });
    const u64 first = client.receive().cookie;
    const u64 second = client.receive().cookie;
    CHECK((first == flush || first == fua));
    CHECK((second == flush || second == fua));
    CHECK(first != second);
  });
}

TEST_CASE("shutdown: work in progress is answered, new requests are refused, silent clients go") {
  Site site;
  site.create_volume("disk", kMiB);
  struct Shutdown final : Job {
    void run() override {}
    void finish() override { gate->spawn(server->shutdown()); }
    Gate* gate = nullptr;
    Server* server = nullptr;
  };
  Gate gate(site.world.reactor());
  Shutdown shutdown;
  shutdown.gate = &gate;
  shutdown.server = site.server.get();
  site.client([&] {
    Client silent(site.path);    // says nothing
    Client haggling(site.path);  // stops in the middle
    haggling.hello();
    Client idle(site.path);
    idle.attach("disk", {});
    Client busy(site.path);
    busy.attach("disk", {});
    CHECK(busy.write(0, "dirty") == kOk);
    site.on_server([&] { site.store.stall(true); });
    const u64 flush = busy.send_request(Command::flush, 0, 0);
    CHECK(busy.read(0, 5) == "dirty");
    site.world.reactor().deliver(shutdown);
    CHECK(silent.receive_bytes(18).size() == 18);
    CHECK(silent.closed_by_server());
    CHECK(haggling.closed_by_server());
    CHECK(idle.closed_by_server());
    CHECK(busy.ask(Command::read, 0, 1).error == kShutdown);
    CHECK(busy.write(0, std::string(100'000, 'x')) == kShutdown);
    site.on_server([&] { site.store.stall(false); });
    const Reply reply = busy.receive();
    CHECK(reply.cookie == flush);
    CHECK(reply.error == kOk);
    CHECK(busy.closed_by_server());
  });
  CHECK(site.run(gate.close()).has_value());
  struct stat info{};
  CHECK(stat(site.path.c_str(), &info) != 0);  // the socket's file is gone
}

TEST_CASE("resize: beyond the new end nothing is served, growing again shows zeroes") {
  Site site;
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {});
    CHECK(client.write(kMiB - 4096, std::string(4096, 'x')) == kOk);
  });
  CHECK(!site.run(site.volumes->resize("disk", 4096, VolumeSet::Shrink::refuse)).has_value());
  struct Resize final : Job {
    void run() override {}
    void finish() override { gate->spawn(resize()); }
    Task<> resize() {
      co_await site->volumes->resize("disk", 6144, VolumeSet::Shrink::allow);
      shrunk = true;
      co_return {};
    }
    Gate* gate = nullptr;
    Site* site = nullptr;
    bool shrunk = false;
  };
  Gate gate(site.world.reactor());
  Resize resize;
  resize.gate = &gate;
  resize.site = &site;
  site.client([&] {
    Client client(site.path);
    client.attach("disk", {});
    site.world.reactor().deliver(resize);
    bool shrunk = false;
    while (!shrunk) site.on_server([&] { shrunk = resize.shrunk; });
    CHECK(client.ask(Command::read, kMiB - 4096, 4096).error == kInval);
    CHECK(client.write(6144, "x") == kNospc);
    CHECK(client.write(6143, "x") == kOk);
    Client later(site.path);
    CHECK(later.attach("disk", {}) == 6144);
  });
  CHECK(site.run(gate.close()).has_value());
  CHECK(site.run(site.volumes->resize("disk", 2 * kMiB, VolumeSet::Shrink::refuse)).has_value());
  site.crash();
  site.open();
  site.client([&] {
    Client client(site.path);
    CHECK(client.attach("disk", {}) == 2 * kMiB);
    CHECK((client.read(6144, kMiB) == std::string(kMiB, '\0')));
  });
}

TEST_CASE("a volume that is attached is not removed; its sessions can be ended") {
  Site site;
  site.create_volume("disk", kMiB);
  struct CloseSessions final : Job {
    void run() override {}
    void finish() override { gate->spawn(server->close_sessions_of(*volume)); }
    Gate* gate = nullptr;
    Server* server = nullptr;
    std::shared_ptr<Volume> volume;
  };
  Gate gate(site.world.reactor());
  CloseSessions closing;
  closing.gate = &gate;
  closing.server = site.server.get();
  closing.volume = site.volumes->find("disk");
  site.create_volume("other", kMiB);
  site.client([&] {
    Client client(site.path), other(site.path);
    client.attach("disk", {});
    other.attach("other", {});
    CHECK(client.write(0, "x") == kOk);
    site.on_server([&] {
      CHECK(site.volumes->find("disk")->info().sessions == 1);
      site.store.stall(true);
    });
    client.send_request(Command::flush, 0, 0);
    CHECK(client.read(0, 1) == "x");
    site.world.reactor().deliver(closing);
    CHECK(client.closed_by_server());
    CHECK(other.read(0, 1).size() == 1);
    site.on_server([&] { site.store.stall(false); });
  });
  CHECK(site.run(gate.close()).has_value());
  closing.volume.reset();
  CHECK(site.run(site.volumes->remove("disk")).has_value());
  CHECK(site.volumes->find("disk") == nullptr);
  const Result<> again = site.run(site.volumes->remove("disk"));
  REQUIRE(!again.has_value());
  CHECK(again.error().code() == Code::not_found);
}

TEST_CASE("limits: connections, the handshake's deadline") {
  ServerOptions options;
  options.connections_max = 2;
  options.handshake_max = 100ms;
  Site site(options);
  site.create_volume("disk", kMiB);
  site.client([&] {
    Client first(site.path), second(site.path);
    first.attach("disk", {});
    second.attach("disk", {});
    Client third(site.path);
    CHECK(third.closed_by_server());
    second.send_request(Command::disconnect, 0, 0);
    CHECK(second.closed_by_server());
    // The place is free again, for a while: this one never says what it wants.
    for (;;) {
      Client slow(site.path);
      try {
        slow.hello();
      } catch (const std::runtime_error&) {
        continue;  // the server had not seen the end of the second one yet
      }
      CHECK(slow.closed_by_server());
      break;
    }
    CHECK(first.read(0, 1).size() == 1);
  });
}

TEST_CASE("clients that vanish in the middle of anything") {
  Site site;
  site.create_volume("disk", 32 * kMiB);
  site.client([&] {
    for (const u32 sent : {0u, 1u, 27u, 28u, 100u, 5000u, 300'000u}) {
      for (const u32 length : {4096u, 65536u, 1u << 20}) {
        for (const u64 offset : {0u, 1u}) {
          Client client(site.path);
          client.attach("disk", {});
          client.send_request(Command::read, 0, 1 << 20);
          std::string bytes(28 + length, '\0');
          RequestHeader header;
          header.magic = kRequestMagic;
          header.type = static_cast<u16>(Command::write);
          header.offset = offset;
          header.length = length;
          std::memcpy(bytes.data(), &header, sizeof header);
          client.send(bytes.substr(0, std::min<std::size_t>(sent, bytes.size())));
        }
      }
    }
    Client survivor(site.path);
    survivor.attach("disk", {});
    CHECK(survivor.write(0, "fine") == kOk);
    CHECK(survivor.read(0, 4) == "fine");
    // None of them stays, with what it held.
    u64 connections = 0;
    for (u32 tries = 0; tries < 1000 && connections != 1; ++tries) {
      usleep(10'000);
      site.on_server([&] { connections = site.server->stats().connections; });
    }
    CHECK(connections == 1);
  });
}

TEST_CASE("a client that does not take its answers stops only itself") {
  Site site;
  site.create_volume("disk", 16 * kMiB);
  site.client([&] {
    Client greedy(site.path);
    greedy.attach("disk", {});
    const std::string data = pattern(3, 16 * kMiB);
    CHECK(greedy.write(0, data) == kOk);
    const timeval brief = {.tv_sec = 0, .tv_usec = 200'000};
    setsockopt(greedy.descriptor(), SOL_SOCKET, SO_SNDTIMEO, &brief, sizeof brief);
    u32 requests = 0;
    try {
      for (; requests < 100'000; ++requests) greedy.send_request(Command::read, 0, 4 << 20);
    } catch (const std::runtime_error&) {
      // The server reads no further.
    }
    CHECK(requests < 20'000);
    Client other(site.path);
    other.attach("disk", {});
    CHECK((other.read(0, 16 << 20) == data));
    CHECK(other.write(0, std::string(16 << 20, 'y')) == kOk);
    CHECK(other.flush() == kOk);
    // And it gets them all when it does take them, from before the overwriting or after it.
    for (u32 i = 0; i < std::min(requests, 20u); ++i) {
      const Reply reply = greedy.receive();
      CHECK(reply.error == kOk);
      const bool before = reply.data == data.substr(0, 4 << 20);
      CHECK((before || reply.data == std::string(4 << 20, 'y')));
    }
  });
}

TEST_CASE("many that do not take their answers cannot pin the whole cache") {
  for (const bool structured : {false, true}) {
    Site site;
    site.create_volume("disk", 96 * kMiB);
    site.client([&] {
      Client writer(site.path);
      writer.attach("disk", {.structured = true});
      for (u64 at = 0; at < 96 * kMiB; at += kMiB) {
        CHECK(writer.write(at, pattern(at, kMiB)) == kOk);
      }
      CHECK(writer.flush() == kOk);
      std::vector<std::unique_ptr<Client>> greedy;
      for (u64 i = 0; i < 12; ++i) {
        greedy.push_back(std::make_unique<Client>(site.path));
        greedy.back()->attach("disk", {.structured = structured});
        greedy.back()->send_request(Command::read, i * 8 * kMiB, 8 * kMiB);
      }
      // The database is twice as large as the cache: all of this needs room.
      for (u64 at = 0; at < 96 * kMiB; at += kMiB) {
        CHECK((writer.read(at + 100, 10'000) == pattern(at, kMiB).substr(100, 10'000)));
        CHECK(writer.write(at, pattern(at, kMiB)) == kOk);
      }
      CHECK(writer.flush() == kOk);
      for (u64 i = 0; i < 12; ++i) {
        const Reply reply = greedy[i]->receive();
        CHECK(reply.error == kOk);
        for (u64 at = 0; at < 8; ++at) {
          CHECK((reply.data.substr(at * kMiB, kMiB) == pattern((i * 8 + at) * kMiB, kMiB)));
        }
      }
    });
  }
}

TEST_CASE("a client that does not move goes when others need what it holds, and only then") {
  ServerOptions options;
  options.stall_max = 200ms;
  Site site(options);
  site.create_volume("disk", 64 * kMiB);
  site.client([&] {
    Client idle(site.path);  // holds nothing: it may be idle for ever
    idle.attach("disk", {});
    Client stalled(site.path);
    stalled.attach("disk", {});
    stalled.send_request(Command::read, 0, 24 << 20);
    CHECK(stalled.receive_bytes(16).size() == 16);
    usleep(500'000);
    CHECK(stalled.receive_bytes(16).size() == 16);  // nobody needed anything
    Client needy(site.path);
    needy.attach("disk", {});
    CHECK(needy.read(0, 24 << 20).size() == 24 << 20);
    CHECK_THROWS(stalled.receive_bytes((24 << 20) - 16));
    CHECK(idle.read(0, 1).size() == 1);
  });
}

// One client of the crowd: its own 4 MiB of the disk, a model of them, 32 requests in the air.
void hammer(Site& site, u64 number) {
  Client client(site.path);
  client.attach("disk", {.structured = number % 2 == 0});
  const u64 base = number * 4 * kMiB;
  std::string model(4 * kMiB, '\0');
  u64 x = number * 77 + 13;
  const auto random = [&](u64 below) {
    x = x * 6364136223846793005 + 1442695040888963407;
    return (x >> 33) % below;
  };
  for (u32 round = 0; round < 60; ++round) {
    std::map<u64, std::pair<u64, u32>> reads;
    u64 slot = 0;  // one request per 128 KiB, so that none overlaps another
    for (u32 i = 0; i < 32; ++i, slot += 128 * kKiB) {
      const u64 begin = slot + random(65536);
      const u32 length = static_cast<u32>(1 + random(i % 4 == 0 ? 65536 : 6000));
      switch (random(8)) {
        case 0: {
          client.send_request(Command::write_zeroes, base + begin, length);
          model.replace(begin, length, length, '\0');
          break;
        }
        case 1: client.send_request(Command::flush, 0, 0); break;
        case 2:
        case 3:
        case 4: {
          const std::string data = pattern(x, length);
          const u32 flags = random(8) == 0 ? kCmdFua : 0;
          client.send_request(Command::write, base + begin, length, flags, data);
          model.replace(begin, length, data);
          break;
        }
        default: {
          const u64 cookie = client.send_request(Command::read, base + begin, length);
          reads[cookie] = {begin, length};
          break;
        }
      }
    }
    for (u32 i = 0; i < 32; ++i) {
      const Reply reply = client.receive();
      CHECK(reply.error == kOk);
      const auto at = reads.find(reply.cookie);
      if (at == reads.end()) continue;
      const auto [begin, length] = at->second;
      if (reply.data != model.substr(begin, length)) throw std::runtime_error("wrong bytes");
    }
  }
  if (client.read(base, 4 * kMiB) != model) throw std::runtime_error("wrong bytes at the end");
}

TEST_CASE("a crowd, each client with its own part of the disk") {
  Site site;
  site.create_volume("disk", 64 * kMiB);
  std::vector<std::function<void()>> scripts;
  for (u64 number = 0; number < 8; ++number) {
    scripts.push_back([&site, number] { hammer(site, number); });
  }
  site.clients(std::move(scripts));
}

TEST_CASE("addresses") {
  const auto parsed = [](std::string_view text) {
    const Result<ListenAddress> address = parse_listen_address(text);
    if (!address) return std::string("invalid");
    if (!address->unix_path.empty()) return "unix " + address->unix_path;
    return address->host + " " + std::to_string(address->port);
  };
  CHECK(parsed("127.0.0.1:1234") == "127.0.0.1 1234");
  CHECK(parsed("example.org") == "example.org 10809");
  CHECK(parsed(":7") == "127.0.0.1 7");
  CHECK(parsed("") == "127.0.0.1 10809");
  CHECK(parsed("[::1]:5") == "::1 5");
  CHECK(parsed("[::1]") == "::1 10809");
  CHECK(parsed("unix:/tmp/x") == "unix /tmp/x");
  for (const char* bad : {"unix:", "::1", "h:", "h:65536", "h:-1", "h:1x", "[::1", "[::1]5"}) {
    CHECK(parsed(bad) == "invalid");
  }
  CHECK(parsed("unix:/" + std::string(107, 'x')) == "invalid");
}

TEST_CASE("a stale socket is replaced, a live one and a file are not") {
  Site site;
  const Result<ListenAddress> live = site.server->listen({.unix_path = site.path, .host = {}});
  REQUIRE(!live.has_value());
  CHECK(live.error().code() == Code::busy);

  const std::string stale = site.path + ".stale";
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  stale.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  close(fd);
  CHECK(site.server->listen({.unix_path = stale, .host = {}}).has_value());
  struct stat info{};
  REQUIRE(stat(stale.c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);

  const std::string file = site.path + ".file";
  std::fclose(std::fopen(file.c_str(), "w"));
  CHECK(!site.server->listen({.unix_path = file, .host = {}}).has_value());
  CHECK(stat(file.c_str(), &info) == 0);
  unlink(file.c_str());
}

}  // namespace
}  // namespace zerofs::nbd
