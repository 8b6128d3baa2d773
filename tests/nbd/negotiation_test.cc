// Goal: haggling answers every option as the protocol document says, survives anything, and ends.
// Method: bytes in, bytes out, against two exports; the answers are parsed and compared.
#include "nbd/negotiation.h"

#include <doctest/doctest.h>

#include <random>

namespace zerofs::nbd {
namespace {

class Exports final : public ExportDirectory {
 public:
  std::optional<ExportView> find(std::string_view name) override {
    if (name.empty() || name == "disk") return disk;
    if (name == "snapshot") return snapshot;
    return {};
  }
  std::vector<ExportView> list() override { return {disk, snapshot}; }

  ExportView disk{.name = "disk", .description = "the disk", .size = 1 << 20};
  ExportView snapshot{.name = "snapshot", .description = "", .size = 4096, .read_only = true};
};

struct Answer {
  u32 option;
  u32 type;
  std::string payload;
};

template <class T>
std::string be(T value) {
  const Be<T> wire = value;
  return std::string(text_of({wire.raw, sizeof wire.raw}));
}
std::string option(u32 number, std::string_view payload = {}) {
  return be<u64>(kOptionMagic) + be<u32>(number) + be<u32>(static_cast<u32>(payload.size())) +
         std::string(payload);
}
std::string text(std::string_view value) {
  return be<u32>(static_cast<u32>(value.size())) + std::string(value);
}
std::string info_payload(std::string_view name, std::vector<u16> infos = {}) {
  std::string out = text(name) + be<u16>(static_cast<u16>(infos.size()));
  for (const u16 info : infos) out += be<u16>(info);
  return out;
}
std::string meta_payload(std::string_view name, std::vector<std::string_view> queries) {
  std::string out = text(name) + be<u32>(static_cast<u32>(queries.size()));
  for (const std::string_view query : queries) out += text(query);
  return out;
}

constexpr u32 kExportName = 1, kAbort = 2, kList = 3, kPeek = 4, kStartTls = 5, kInfo = 6, kGo = 7,
              kStructuredReply = 8, kListMeta = 9, kSetMeta = 10, kExtended = 11;
using State = Negotiation::State;

// A client that has said hello; `say` feeds and returns the state.
struct Client {
  explicit Client(u32 flags = kFlagFixedNewstyle | kFlagNoZeroes) { state = say(be<u32>(flags)); }
  State say(std::string_view bytes) {
    input += bytes;
    std::size_t used = 0;
    state = negotiation.feed(bytes_of(input), used, output);
    REQUIRE(used <= input.size());
    input.erase(0, used);
    return state;
  }
  std::vector<Answer> answers() {
    std::vector<Answer> out;
    Bytes rest = output;
    while (!rest.empty()) {
      REQUIRE(rest.size() >= sizeof(OptionReply));
      const auto header = struct_from<OptionReply>(rest);
      REQUIRE(header.magic == kOptionReplyMagic);
      const u32 length = header.length;
      REQUIRE(rest.size() >= sizeof header + length);
      out.push_back(
          {header.option, header.type, std::string(text_of(rest.subspan(sizeof header, length)))});
      rest = rest.subspan(sizeof header + length);
    }
    output.clear();
    return out;
  }
  // The type of the only or last answer.
  u32 ask(u32 number, std::string_view payload = {}) {
    say(option(number, payload));
    const std::vector<Answer> all = answers();
    REQUIRE(!all.empty());
    for (const Answer& answer : all) CHECK(answer.option == number);
    return all.back().type;
  }

  Exports exports;
  Negotiation negotiation{exports};
  std::string input;
  std::vector<std::byte> output;
  State state;
};

TEST_CASE("the greeting") {
  Exports exports;
  Negotiation negotiation(exports);
  std::vector<std::byte> out;
  negotiation.greet(out);
  CHECK(text_of(out) == std::string_view("NBDMAGICIHAVEOPT\x00\x03", 18));
}

TEST_CASE("client flags") {
  CHECK(Client(0).state == State::more);
  CHECK(Client(kFlagFixedNewstyle).state == State::more);
  CHECK(Client(4).state == State::close);
  CHECK(Client(0x80000003).state == State::close);
}

TEST_CASE("a client without fixed newstyle may only name an export") {
  Client good(0);
  CHECK(good.say(option(kExportName, "disk")) == State::transmission);
  Client bad(0);
  CHECK(bad.say(option(kList)) == State::close);
}

TEST_CASE("EXPORT_NAME") {
  Client plain(kFlagFixedNewstyle);
  CHECK(plain.say(option(kExportName, "disk")) == State::transmission);
  CHECK(plain.output.size() == 8 + 2 + 124);
  Client terse;
  CHECK(terse.say(option(kExportName, "")) == State::transmission);
  CHECK(terse.negotiation.export_name() == "disk");
  CHECK(terse.output.size() == 8 + 2);
  // size 1 MiB; flags: all of simple replies
  CHECK(text_of(terse.output) == std::string_view("\0\0\0\0\0\x10\0\0\x0d\x6d", 10));
  Client unknown;
  CHECK(unknown.say(option(kExportName, "nothing")) == State::close);
}

TEST_CASE("ABORT is acknowledged, whatever comes with it") {
  Client client;
  CHECK(client.say(option(kAbort, "bye")) == State::close);
  const auto answers = client.answers();
  REQUIRE(answers.size() == 1);
  CHECK(answers[0].type == kRepAck);
}

TEST_CASE("LIST") {
  Client client;
  client.say(option(kList));
  const auto answers = client.answers();
  REQUIRE(answers.size() == 3);
  CHECK(answers[0].type == kRepServer);
  CHECK(answers[0].payload == text("disk") + "the disk");
  CHECK(answers[1].payload == text("snapshot"));
  CHECK(answers[2].type == kRepAck);
  CHECK(client.ask(kList, "x") == kRepErrInvalid);
  CHECK(client.state == State::more);
}

TEST_CASE("unknown options are refused and drained") {
  Client client;
  for (const u32 number : {kPeek, kStartTls, kExtended, 12u, 0u, 0xffff'ffffu}) {
    CHECK(client.ask(number, "some payload") == kRepErrUnsup);
    CHECK(client.state == State::more);
  }
  CHECK(client.ask(kGo, info_payload("disk")) == kRepAck);
  CHECK(client.state == State::transmission);
}

TEST_CASE("options too long to parse are drained") {
  Client client;
  const std::string payload(kOptionParseBytesMax + 1, 'x');
  for (const u32 number : {kInfo, kList, 77u}) {
    CHECK(client.ask(number, payload) == kRepErrTooBig);
    CHECK(client.state == State::more);
  }
  // In pieces, as a socket brings them.
  const std::string whole = option(kGo, payload) + option(kGo, info_payload("disk"));
  for (std::size_t at = 0; at < whole.size(); at += 1000) client.say(whole.substr(at, 1000));
  const auto answers = client.answers();
  REQUIRE(answers.size() == 3);
  CHECK(answers[0].type == kRepErrTooBig);
  CHECK(answers[1].type == kRepInfo);
  CHECK(client.state == State::transmission);

  Client endless;
  CHECK(endless.say(be<u64>(kOptionMagic) + be<u32>(kInfo) + be<u32>(kOptionDrainBytesMax + 1)) ==
        State::close);
}

TEST_CASE("a wrong magic ends it") {
  Client client;
  CHECK(client.say(be<u64>(kOptionMagic + 1) + be<u32>(kList) + be<u32>(0)) == State::close);
}

TEST_CASE("GO") {
  Client client;
  client.say(option(kGo, info_payload("disk", {3, 1, 2, 99})));
  CHECK(client.state == State::transmission);
  CHECK(client.negotiation.export_name() == "disk");
  const auto answers = client.answers();
  REQUIRE(answers.size() == 5);
  for (const Answer& answer : answers) CHECK(answer.option == kGo);
  CHECK(answers[0].type == kRepInfo);
  CHECK(answers[0].payload == be<u16>(0) + be<u64>(1 << 20) + be<u16>(0x0d6d));
  CHECK(answers[1].payload == be<u16>(3) + be<u32>(1) + be<u32>(4096) + be<u32>(32 << 20));
  CHECK(answers[2].payload == be<u16>(1) + "disk");
  CHECK(answers[3].payload == be<u16>(2) + "the disk");
  CHECK(answers[4].type == kRepAck);
}

TEST_CASE("GO without information requests, and to the default export") {
  Client client;
  client.say(option(kGo, info_payload("")));
  const auto answers = client.answers();
  REQUIRE(answers.size() == 3);
  CHECK(answers[0].payload.substr(0, 2) == be<u16>(0));
  CHECK(answers[1].payload == be<u16>(1) + "disk");  // its real name
  CHECK(answers[2].type == kRepAck);
  CHECK(client.negotiation.export_name() == "disk");
}

TEST_CASE("INFO: read-only, DF once structured") {
  Client client;
  client.say(option(kInfo, info_payload("snapshot")));
  CHECK(client.answers()[0].payload == be<u16>(0) + be<u64>(4096) + be<u16>(0x0d6f));
  CHECK(client.ask(kStructuredReply) == kRepAck);
  client.say(option(kInfo, info_payload("snapshot")));
  CHECK(client.answers()[0].payload == be<u16>(0) + be<u64>(4096) + be<u16>(0x0def));
  CHECK(client.state == State::more);
}

TEST_CASE("INFO and GO that are not well formed keep haggling") {
  const std::string good = info_payload("disk", {3});
  const std::string bad[] = {"",
                             "\x01",
                             good + "x",
                             good.substr(0, good.size() - 1),
                             be<u32>(0xffff'ffff) + "disk" + be<u16>(0),
                             be<u32>(5) + "disk" + be<u16>(0),
                             info_payload(std::string_view("a\0b", 3)),
                             info_payload(std::string(4097, 'n'))};
  for (const u32 number : {kInfo, kGo}) {
    Client client;
    for (const std::string& payload : bad) CHECK(client.ask(number, payload) == kRepErrInvalid);
    CHECK(client.ask(number, info_payload("nothing")) == kRepErrUnknown);
    CHECK(client.state == State::more);
    CHECK(client.ask(number, good) == kRepAck);
  }
}

TEST_CASE("STRUCTURED_REPLY") {
  Client client;
  CHECK(client.ask(kStructuredReply, "x") == kRepErrInvalid);
  CHECK(!client.negotiation.structured());
  CHECK(client.ask(kStructuredReply) == kRepAck);
  CHECK(client.negotiation.structured());
  CHECK(client.ask(kStructuredReply) == kRepErrInvalid);
  CHECK(client.negotiation.structured());
}

TEST_CASE("meta contexts need structured replies") {
  Client client;
  CHECK(client.ask(kSetMeta, meta_payload("disk", {"base:allocation"})) == kRepErrInvalid);
  CHECK(client.ask(kListMeta, meta_payload("disk", {})) == kRepErrInvalid);
}

TEST_CASE("LIST_META_CONTEXT") {
  Client client;
  client.ask(kStructuredReply);
  const auto count = [&](std::vector<std::string_view> queries) {
    client.say(option(kListMeta, meta_payload("disk", queries)));
    const auto answers = client.answers();
    CHECK(answers.back().type == kRepAck);
    if (answers.size() == 2) CHECK(answers[0].payload == be<u32>(1) + "base:allocation");
    return answers.size() - 1;
  };
  CHECK(count({}) == 1);
  CHECK(count({"base:"}) == 1);
  CHECK(count({"base:allocation"}) == 1);
  CHECK(count({"base:alloc"}) == 0);
  CHECK(count({"qemu:", "other"}) == 0);
  CHECK(count({"qemu:", "base:", "base:allocation"}) == 1);
  CHECK(!client.negotiation.has_context());
  CHECK(client.ask(kListMeta, meta_payload("nothing", {})) == kRepErrUnknown);
}

TEST_CASE("SET_META_CONTEXT replaces, also when it fails, and is bound to the export") {
  const auto chosen = [](std::vector<std::pair<std::string, std::vector<std::string_view>>> sets,
                         std::string_view go) {
    Client client;
    client.ask(kStructuredReply);
    for (const auto& [name, queries] : sets) client.ask(kSetMeta, meta_payload(name, queries));
    CHECK(client.ask(kGo, info_payload(go)) == kRepAck);
    return client.negotiation.has_context();
  };
  CHECK(chosen({{"disk", {"base:allocation"}}}, "disk"));
  CHECK(chosen({{"", {"base:allocation"}}}, "disk"));  // the default export by its name
  CHECK(!chosen({{"disk", {"base:"}}}, "disk"));
  CHECK(!chosen({{"disk", {}}}, "disk"));
  CHECK(!chosen({{"disk", {"base:allocation"}}, {"disk", {}}}, "disk"));
  CHECK(!chosen({{"disk", {"base:allocation"}}, {"nothing", {"base:allocation"}}}, "disk"));
  CHECK(!chosen({{"disk", {"base:allocation"}}}, "snapshot"));
  CHECK(chosen({{"snapshot", {"base:allocation"}}, {"disk", {"base:allocation"}}}, "disk"));

  Client client;
  client.ask(kStructuredReply);
  client.ask(kSetMeta, meta_payload("disk", {"base:allocation"}));
  CHECK(client.negotiation.has_context());
  CHECK(client.ask(kSetMeta, "garbage") == kRepErrInvalid);
  CHECK(!client.negotiation.has_context());
}

TEST_CASE("queries that do not fit") {
  Client client;
  client.ask(kStructuredReply);
  CHECK(client.ask(kSetMeta, text("disk") + be<u32>(0xffff'ffff)) == kRepErrInvalid);
  CHECK(client.ask(kSetMeta, text("disk") + be<u32>(1) + be<u32>(4) + "abc") == kRepErrInvalid);
  CHECK(client.ask(kSetMeta, meta_payload("disk", {"a"}) + "x") == kRepErrInvalid);
}

TEST_CASE("a client that haggles for ever is shown the door") {
  Client client;
  u32 count = 0;
  while (client.say(option(99)) == State::more) REQUIRE(++count < 1000);
  CHECK(count >= 32);
  Client listing;  // a long list takes more options to ask about
  listing.say(option(kList));
  count = 0;
  while (listing.say(option(kInfo, info_payload("disk"))) == State::more) REQUIRE(++count < 1000);
  CHECK(count >= 64);
  Client lister;  // but listing again and again buys nothing
  count = 0;
  while (lister.say(option(kList)) == State::more) REQUIRE(++count < 1000);
}

TEST_CASE("byte by byte is the same as at once") {
  const std::string script = option(kStructuredReply) + option(kList) +
                             option(kSetMeta, meta_payload("disk", {"base:allocation"})) +
                             option(kGo, info_payload("disk", {3}));
  Client whole;
  whole.say(script);
  Client bytes;
  for (const char c : script) bytes.say({&c, 1});
  CHECK(whole.state == State::transmission);
  CHECK(bytes.state == State::transmission);
  CHECK(text_of(whole.output) == text_of(bytes.output));
}

TEST_CASE("noise") {
  std::mt19937_64 random(11);
  for (u32 round = 0; round < 20'000; ++round) {
    Client client;
    for (u32 i = 0; i < 8 && client.state == State::more; ++i) {
      std::string payload =
          random() % 2 == 0 ? info_payload("disk", {3, 1}) : meta_payload("disk", {"base:", "x"});
      const std::size_t flips = random() % 4;
      for (std::size_t f = 0; f < flips; ++f) {
        payload[random() % payload.size()] = static_cast<char>(random());
      }
      payload.resize(random() % 4 == 0 ? random() % (payload.size() + 1) : payload.size());
      client.say(option(static_cast<u32>(random() % 13), payload));
    }
    if (client.state != State::transmission) client.answers();
  }
}

}  // namespace
}  // namespace zerofs::nbd
