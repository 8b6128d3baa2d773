// Goal: a log object is what FORMAT.md says, gives back exactly what was sealed, and gives an error
// for anything else that may lie under its name. Method: the worked example of FORMAT.md, pinned
// both ways; truncation at every length; every bit flipped; every object under every other name.
#include "engine/format/log_object.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sodium.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "engine/format/log_plain.h"
#include "engine/format/trailer.h"
#include "tests/engine/format/samples.h"

namespace zerofs::format {
namespace {

// The object of FORMAT.md, "A worked example".
struct Example {
  lsm::Layer layer;
  lsm::FramePointer frame;
  Buffer object;
};
Example make_example() {
  Example out;
  const Term term{1};
  const Seq seq{2};
  ObjectCipher cipher(keys(), kSalt, log_name(term, seq), kRandom);
  const std::vector<std::byte> page(kPageBytes, std::byte{0xaa});
  const std::byte* pages[] = {page.data()};
  out.frame = seal_frame(cipher, pages, 5, {.stored = true}, out.object);
  lsm::LayerBuilder builder;
  builder.add_data({u64{1} << 40 | 9}, 7, 1u << 5, lsm::log_segment(term, seq), out.frame);
  builder.add_empty({u64{1} << 40 | 9}, 8, 3, lsm::RunKind::hole);
  builder.erase({{u64{1} << 40 | 9}, 16, 31, false});
  builder.put_meta("volume/a", "x");
  builder.put_meta("volume/b", std::nullopt);
  out.layer = std::move(builder).build();
  finish_log_object(cipher, out.layer,
                    {.term = term,
                     .seq = seq,
                     .durable_end = 1,
                     .journal_position = 0,
                     .data_bytes = out.object.size(),
                     .layer = {}},
                    {.stored = true}, out.object);
  return out;
}

// The lines "<8 hex digits>  <bytes>" of FORMAT.md after the heading, by offset.
std::map<u64, std::vector<std::byte>> documented(const std::string& heading) {
  std::ifstream file(FORMAT_MD);
  REQUIRE(file);
  std::map<u64, std::vector<std::byte>> out;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) inside = line == heading;
    const std::size_t start = line.find_first_not_of(' ');
    if (!inside || start != 4 || line.size() < 14 || line.substr(12, 2) != "  ") continue;
    if (line.find_first_not_of("0123456789abcdef", 4) != 12) continue;
    out[std::stoull(line.substr(4, 8), nullptr, 16)] = from_hex(line.substr(14, 47));
  }
  return out;
}

std::string dump(Bytes bytes) {
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += 16) {
    out += fmt::format("    {:08x} ", at);
    for (const std::byte byte : bytes.subspan(at, std::min<std::size_t>(16, bytes.size() - at))) {
      out += fmt::format(" {:02x}", static_cast<u8>(byte));
    }
    out += '\n';
  }
  return out;
}

}  // namespace

TEST_CASE("the worked example of FORMAT.md is what we write and read") {
  const Example example = make_example();
  const auto lines = documented("## A worked example");
  std::size_t covered = 0;
  for (const auto& [offset, bytes] : lines) {
    REQUIRE(offset + bytes.size() <= example.object.size());
    CAPTURE(offset);
    CHECK(to_hex(bytes) == to_hex(example.object.bytes().subspan(offset, bytes.size())));
    covered += bytes.size();
  }
  // Everything but the middle of the frame is shown.
  const u64 shown = example.object.size() - align_piece(example.frame.stored_bytes) + 48;
  INFO(dump(example.object.bytes().first(32)), dump(example.object.bytes().last(256)));
  CHECK(covered >= shown);

  const auto plain = documented("### Its layer before sealing");
  std::vector<std::byte> layer;
  for (const auto& [offset, bytes] : plain) layer.insert(layer.end(), bytes.begin(), bytes.end());
  INFO(dump(encode_layer(example.layer)));
  CHECK(to_hex(layer) == to_hex(encode_layer(example.layer)));
  CHECK(decode_layer(layer) == example.layer);

  ObjectCipher cipher(keys(), kSalt, log_name({1}, {2}));
  const Result<LogFooter> footer =
      decode_log_footer(cipher, example.object.size(), example.object.bytes().last(300), {1}, {2});
  REQUIRE(footer);
  CHECK(footer->durable_end == 1);
  CHECK(footer->data_bytes == 4116);
  CHECK(footer->layer.offset == 4128);
}

TEST_CASE("log objects round-trip, and layer and footer are found from the tail alone") {
  for (u64 seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    Rng rng(seed);
    const Compression compression{.stored = seed % 3 == 0, .level = 1};
    const LogSample sample = make_log_object(rng, keys(), kSalt, {rng() % 1000}, {rng() % 100000},
                                             static_cast<u32>(seed), compression);
    CHECK(sample.object.size() % 16 == 0);
    const Result<lsm::Layer> layer = read_back(sample, keys(), kSalt, sample.object);
    REQUIRE(layer);
    CHECK(*layer == sample.layer);

    ObjectCipher cipher(keys(), kSalt, sample.name);
    const Result<LogFooter> footer =
        decode_log_footer(cipher, sample.object.size(), sample.object.bytes().last(kLogTailBytes),
                          sample.footer.term, sample.footer.seq);
    REQUIRE(footer);
    LogFooter expected = sample.footer;
    expected.layer = footer->layer;
    CHECK(*footer == expected);
    CHECK(footer->layer.offset == align_piece(sample.footer.data_bytes));
  }
}

TEST_CASE("nonces are unique, and are what FORMAT.md says") {
  // Method: find every piece of several objects, compute its nonce from the document, open it with
  // libsodium, and collect the nonces.
  std::set<std::string> nonces;
  std::size_t pieces = 0;
  unsigned char pieces_key[32];
  crypto_kdf_derive_from_key(pieces_key, 32, 1, "zerofs01",
                             reinterpret_cast<const unsigned char*>(kDataKey.data()));
  Rng rng(8);
  for (u64 seq = 0; seq < 5; ++seq) {
    const LogSample sample = make_log_object(rng, keys(), kSalt, {1}, {seq}, 20, {});
    ObjectCipher cipher(keys(), kSalt, sample.name);
    const Result<LogFooter> footer =
        decode_log_footer(cipher, sample.object.size(), sample.object, {1}, {seq});
    REQUIRE(footer);
    struct Piece {
      u64 offset;
      u64 bytes;
      PieceKind kind;
      Codec codec;
      u32 plain_bytes;
    };
    std::vector<Piece> all;
    for (const lsm::FramePointer& frame : sample.frames) {
      all.push_back({frame.offset, frame.stored_bytes, PieceKind::frame, frame.codec,
                     frame.page_count * kPageBytes});
    }
    all.push_back({footer->layer.offset, footer->layer.stored_bytes, PieceKind::layer,
                   footer->layer.codec, footer->layer.plain_bytes});
    all.push_back({sample.object.size() - kLogTailBytes, 96, PieceKind::log_footer, Codec::raw, 76});
    u64 end = 0;
    for (const Piece& piece : all) {
      CHECK(piece.offset >= end);  // pieces do not overlap
      end = piece.offset + piece.bytes;
      const Bytes sealed = sample.object.bytes().subspan(piece.offset, piece.bytes);
      std::string hashed(text_of(kSalt));
      hashed += sample.name;
      unsigned char nonce[24];
      crypto_generichash(nonce, 16, reinterpret_cast<const unsigned char*>(hashed.data()),
                         hashed.size(), pieces_key, 32);
      std::memcpy(nonce + 16, sealed.data(), 4);
      const Le<u32> ordinal = static_cast<u32>(piece.offset / 16);
      std::memcpy(nonce + 20, ordinal.raw, 4);
      Writer aad;
      aad.put<u32>(1);
      aad.put<u8>(static_cast<u8>(piece.kind));
      aad.put<u8>(static_cast<u8>(piece.codec));
      aad.put<u16>(static_cast<u16>(sample.name.size()));
      aad.put<u32>(piece.plain_bytes);
      aad.put_raw(kDatabase);
      aad.put_raw(bytes_of(sample.name));
      std::vector<unsigned char> plain(piece.bytes);
      REQUIRE(crypto_aead_xchacha20poly1305_ietf_decrypt(
                  plain.data(), nullptr, nullptr,
                  reinterpret_cast<const unsigned char*>(sealed.data()) + 4, sealed.size() - 4,
                  reinterpret_cast<const unsigned char*>(aad.bytes().data()), aad.size(), nonce,
                  pieces_key) == 0);
      nonces.insert(std::string(reinterpret_cast<const char*>(nonce), 24));
      ++pieces;
    }
  }
  CHECK(nonces.size() == pieces);
}

TEST_CASE("cut at any length: an error") {
  Rng rng(9);
  const LogSample sample = make_log_object(rng, keys(), kSalt, {1}, {2}, 1, {});
  for (std::size_t size = 0; size < sample.object.size(); ++size) {
    const Bytes cut = sample.object.bytes().first(size);
    static_cast<void>(classify_log_slot(cut));  // any answer, no crash
    ObjectCipher cipher(keys(), kSalt, sample.name);
    REQUIRE_FALSE(decode_log_footer(cipher, size, cut, {1}, {2}));
    REQUIRE_FALSE(decode_fence(keys(), cut, {1}, {2}));
    // Cut at the front, with its true or its apparent length.
    const Bytes tail = sample.object.bytes().last(size);
    if (size < kLogTailBytes) {
      REQUIRE_FALSE(decode_log_footer(cipher, sample.object.size(), tail, {1}, {2}));
    }
    REQUIRE_FALSE(decode_log_footer(cipher, size, tail, {1}, {2}));
  }
}

TEST_CASE("any bit flipped: an error, or a bit of padding") {
  Rng rng(10);
  LogSample sample;
  do {
    sample = make_log_object(rng, keys(), kSalt, {1}, {2}, 3, {});
  } while (sample.object.size() > 3000);  // compressible frames
  ObjectCipher cipher(keys(), kSalt, sample.name);
  const Result<LogFooter> footer =
      decode_log_footer(cipher, sample.object.size(), sample.object, {1}, {2});
  REQUIRE(footer);
  std::vector<bool> padding(sample.object.size(), true);
  const auto cover = [&](u64 offset, u64 bytes) {
    for (u64 i = offset; i < offset + bytes; ++i) padding[i] = false;
  };
  for (const lsm::FramePointer& frame : sample.frames) cover(frame.offset, frame.stored_bytes);
  cover(footer->layer.offset, footer->layer.stored_bytes);
  cover(sample.object.size() - kLogTailBytes, kLogTailBytes);
  for (std::size_t bit = 0; bit < sample.object.size() * 8; ++bit) {
    CAPTURE(bit);
    Buffer broken = Buffer::copy_of(sample.object);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const Result<lsm::Layer> layer = read_back(sample, keys(), kSalt, broken);
    REQUIRE(layer.has_value() == padding[bit / 8]);
    if (layer) REQUIRE(*layer == sample.layer);
  }
}

TEST_CASE("swap matrix: every object under every other name") {
  Rng rng(11);
  const Salt other_salt = counting<16>(0x99);
  const DatabaseKeys other(kDataKey, counting<16>(0));
  struct Place {
    const DatabaseKeys* keys;
    Salt salt;
    Term term;
    Seq seq;
  };
  const Place places[] = {{&keys(), kSalt, {1}, {2}},      {&keys(), kSalt, {1}, {3}},
                          {&keys(), kSalt, {2}, {2}},      {&keys(), other_salt, {1}, {2}},
                          {&other, kSalt, {1}, {2}}};
  std::vector<LogSample> samples;
  std::vector<Buffer> fences;
  for (const Place& place : places) {
    Rng same(12);  // the same content everywhere
    samples.push_back(make_log_object(same, *place.keys, place.salt, place.term, place.seq, 2, {}));
    fences.push_back(encode_fence(
        *place.keys, {.term = place.term, .seq = place.seq, .fenced_by = {5}}, kNonce));
  }
  for (std::size_t to = 0; to < std::size(places); ++to) {
    for (std::size_t from = 0; from < std::size(places); ++from) {
      const Place& place = places[to];
      CAPTURE(to);
      CAPTURE(from);
      const auto layer = read_back(samples[to], *place.keys, place.salt, samples[from].object);
      CHECK(layer.has_value() == (to == from));
      const auto fence = decode_fence(*place.keys, fences[from], place.term, place.seq);
      // A fence does not depend on the salt: the opener makes it for a term that is not its own.
      const bool same_fence =
          place.keys == places[from].keys && place.term == places[from].term &&
          place.seq == places[from].seq;
      CHECK(fence.has_value() == same_fence);
      // Neither is taken for the other, whatever the trailer claims.
      Buffer disguised = Buffer::copy_of(samples[from].object);
      std::memcpy(disguised.data() + disguised.size() - 8, kFenceMagic.data(), 8);
      CHECK(classify_log_slot(disguised) == LogSlot::fence);
      CHECK_FALSE(decode_fence(*place.keys, disguised, place.term, place.seq));
      disguised = Buffer::copy_of(fences[from]);
      std::memcpy(disguised.data() + disguised.size() - 8, kLogMagic.data(), 8);
      CHECK_FALSE(read_back(samples[to], *place.keys, place.salt, disguised));
    }
  }
}

TEST_CASE("swap matrix: every piece of an object in every other place of it") {
  // Method: frames of equal stored length and the same content; each is copied over each other.
  const std::string name = log_name({1}, {2});
  ObjectCipher cipher(keys(), kSalt, name, kRandom);
  Buffer object;
  const std::vector<std::byte> page(kPageBytes, std::byte{1});
  const std::byte* pages[] = {page.data()};
  std::vector<lsm::FramePointer> frames;
  for (u8 i = 0; i < 6; ++i) frames.push_back(seal_frame(cipher, pages, i, {}, object));
  for (const lsm::FramePointer& to : frames) {
    for (const lsm::FramePointer& from : frames) {
      REQUIRE(to.stored_bytes == from.stored_bytes);
      std::vector<std::byte> out(kPageBytes);
      const Bytes sealed = object.bytes().subspan(from.offset, from.stored_bytes);
      CHECK(open_frame(cipher, to, sealed, out).has_value() == (to.offset == from.offset));
    }
  }
}

TEST_CASE("a layer that points elsewhere is refused") {
  const Term term{1};
  const Seq seq{2};
  const LogFooter footer{.term = term, .seq = seq, .layer = {.offset = 8192, .stored_bytes = 100}};
  const auto layer_with = [](lsm::SegmentId segment, u64 offset, u32 stored) {
    lsm::LayerBuilder builder;
    builder.add_data({1}, 0, 1, segment,
                     {.offset = offset, .stored_bytes = stored, .codec = Codec::zstd});
    return std::move(builder).build();
  };
  CHECK(check_log_layer(layer_with(lsm::log_segment(term, seq), 0, 8192), footer));
  CHECK(check_log_layer(layer_with(lsm::log_segment(term, seq), 4096, 4096), footer));
  CHECK_FALSE(check_log_layer(layer_with(lsm::log_segment(term, seq), 4096, 4097), footer));
  CHECK_FALSE(check_log_layer(layer_with(lsm::log_segment(term, seq), 8192, 100), footer));
  CHECK_FALSE(check_log_layer(layer_with(lsm::log_segment(term, seq), 0, 20), footer));
  CHECK_FALSE(check_log_layer(layer_with(lsm::log_segment(term, {3}), 0, 4096), footer));
  CHECK_FALSE(check_log_layer(layer_with(lsm::pack_segment(term, 2), 0, 4096), footer));
}

TEST_CASE("footers: impossible fields are refused") {
  const Example example = make_example();
  ObjectCipher cipher(keys(), kSalt, log_name({1}, {2}));
  const u64 offset = example.object.size() - kLogTailBytes;
  std::vector<std::byte> plain(76);
  REQUIRE(cipher.open(PieceKind::log_footer, offset, Codec::raw, 76,
                      example.object.bytes().subspan(offset, 96), plain));
  REQUIRE(decode_log_footer_plain(plain, offset));
  CHECK_FALSE(decode_log_footer_plain(plain, offset + 16));
  CHECK_FALSE(decode_log_footer_plain(Bytes(plain).first(75), offset));
  const auto with = [&](std::size_t at, u8 value) {
    auto changed = plain;
    changed[at] = static_cast<std::byte>(value);
    return decode_log_footer_plain(changed, offset).has_value();
  };
  CHECK_FALSE(with(33, 0xff));  // data bytes
  CHECK_FALSE(with(40, 0x21));  // layer: not aligned
  CHECK_FALSE(with(41, 0xff));  // behind the footer
  CHECK_FALSE(with(47, 0xff));
  CHECK_FALSE(with(49, 0x10));  // stored bytes: over the footer
  CHECK_FALSE(with(55, 0xff));  // plain bytes
  CHECK_FALSE(with(56, 2));     // codec
}

TEST_CASE("a newer format version is named, other trailers are corrupt") {
  const Example example = make_example();
  Buffer object = Buffer::copy_of(example.object);
  object.data()[object.size() - 16] = std::byte{2};
  const Result<LogSlot> newer = classify_log_slot(object);
  REQUIRE_FALSE(newer);
  CHECK(newer.error().code() == Code::invalid);
  CHECK(newer.error().id() == 2);
  object.data()[object.size() - 16] = std::byte{0};
  CHECK(classify_log_slot(object).error().code() == Code::corrupt);
  for (const Magic& magic : {kPackMagic, kTableMagic, kManifestMagic, kKeySlotMagic}) {
    const Trailer trailer = trailer_of(magic);
    CHECK(classify_log_slot(struct_bytes(trailer)).error().code() == Code::corrupt);
  }
  CHECK(classify_log_slot({}).error().code() == Code::corrupt);
}

TEST_CASE("fences are pinned and round-trip; any damage is an error") {
  const Fence fence{.term = {1}, .seq = {2}, .fenced_by = {3}};
  const Buffer object = encode_fence(keys(), fence, kNonce);
  CHECK(to_hex(object) == "505152535455565758595a5b5c5d5e5f60616263646566673b3559b40995219b7c8017d1d18e6747"
        "b57570d9e2f9dc5ee2111956cf73d13b8a6f4e4323f6ca7c01000000000000007a66732d666e630a");
  CHECK(classify_log_slot(object) == LogSlot::fence);
  CHECK(decode_fence(keys(), object, {1}, {2}) == fence);
  for (std::size_t size = 0; size < object.size(); ++size) {
    REQUIRE_FALSE(decode_fence(keys(), object.bytes().first(size), {1}, {2}));
    REQUIRE_FALSE(decode_fence(keys(), object.bytes().last(size), {1}, {2}));
  }
  for (std::size_t bit = 0; bit < object.size() * 8; ++bit) {
    Buffer broken = Buffer::copy_of(object);
    broken.data()[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    REQUIRE_FALSE(decode_fence(keys(), broken, {1}, {2}));
  }
}

}  // namespace zerofs::format
