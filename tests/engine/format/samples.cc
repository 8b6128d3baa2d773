#include "tests/engine/format/samples.h"

namespace zerofs::format {

std::string to_hex(Bytes bytes) {
  static const char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::byte byte : bytes) {
    out += digits[static_cast<u8>(byte) >> 4];
    out += digits[static_cast<u8>(byte) & 15];
  }
  return out;
}

std::vector<std::byte> from_hex(std::string_view hex) {
  std::vector<std::byte> out;
  int high = -1;
  for (const char c : hex) {
    if (c == ' ' || c == '\n') continue;
    const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
    INVARIANT(digit >= 0 && digit < 16);
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<std::byte>(high << 4 | digit));
      high = -1;
    }
  }
  INVARIANT(high < 0);
  return out;
}

std::vector<std::byte> make_content(Rng& rng, Content content, std::size_t size) {
  static const std::string_view words[] = {"the ",  "quick ", "brown ", "fox ", "jumps\n", "over ",
                                           "lazy ", "dog ",   "0x",     "{",    "}",       ";\n"};
  std::vector<std::byte> out(size);
  if (content == Content::zeroes) return out;
  if (content == Content::text) {
    for (std::size_t at = 0; at < size;) {
      for (const char c : words[rng() % std::size(words)]) {
        if (at < size) out[at++] = static_cast<std::byte>(c);
      }
    }
    return out;
  }
  for (std::size_t at = 0; at < size; ++at) {
    const bool noisy = content == Content::noise || at / 512 % 2 == 0;
    out[at] = static_cast<std::byte>(noisy ? rng() : 0);
  }
  return out;
}

lsm::Layer random_layer(Rng& rng, const std::vector<lsm::SegmentId>& segments, u32 operations) {
  lsm::LayerBuilder builder;
  const auto random_object = [&] {
    static const u64 ids[] = {0, 1, 2, u64{5} << 40 | 7, u64{5} << 40 | kObjectParentBit | 7,
                              (u64{1} << 24) - 1, ~u64{0}};
    return ObjectId{ids[rng() % std::size(ids)]};
  };
  const auto random_chunk = [&]() -> u64 {
    switch (rng() % 4) {
      case 0: return rng() % 8;
      case 1: return 1000 + rng() % 8;
      case 2: return kChunkIndexMax - rng() % 8;
      default: return rng() & kChunkIndexMax;
    }
  };
  u64 next_offset = 0;
  for (u32 i = 0; i < operations; ++i) {
    const ObjectId object = random_object();
    switch (rng() % 8) {
      case 0:
        builder.add_empty(object, random_chunk(), static_cast<u32>(rng()) | 1,
                          rng() % 2 != 0 ? lsm::RunKind::zero : lsm::RunKind::hole);
        break;
      case 1: {
        const u64 first = random_chunk();
        const u64 more = rng() % 3 == 0 ? rng() & kChunkIndexMax : rng() % 4;
        builder.erase({object, first, std::min(kChunkIndexMax, first + more), false});
        break;
      }
      case 2: {
        std::string key(rng() % 4, 'k');
        for (u64 n = rng() % 12; n != 0; --n) key += static_cast<char>('a' + rng() % 3);
        if (rng() % 50 == 0) key.append(400, 'z');
        std::optional<std::string> value;
        if (rng() % 3 != 0) value = std::string(rng() % 100, static_cast<char>(rng()));
        builder.put_meta(std::move(key), std::move(value));
        break;
      }
      case 3:
        if (rng() % 4 == 0) builder.erase({object, 0, kChunkIndexMax, true});
        break;
      default: {
        if (segments.empty()) break;
        lsm::FramePointer frame;
        frame.page_count = static_cast<u8>(1 + rng() % kPagesPerFrameMax);
        frame.first_page = static_cast<u8>(rng() % (kPagesPerChunk - frame.page_count + 1));
        frame.codec = rng() % 2 != 0 ? Codec::zstd : Codec::raw;
        frame.stored_bytes = frame.codec == Codec::raw
                                 ? frame.page_count * kPageBytes + kSealOverhead
                                 : static_cast<u32>(kSealOverhead + 1 + rng() % 30000);
        if (rng() % 20 == 0) next_offset = (rng() & UINT32_MAX) * 16;
        frame.offset = next_offset;
        next_offset = align_piece(frame.offset + frame.stored_bytes);
        if (next_offset / 16 > UINT32_MAX) next_offset = 0;
        const u32 pages = ((1u << frame.page_count) - 1) << frame.first_page;
        u32 mask = pages;
        if (rng() % 4 == 0) mask &= static_cast<u32>(rng());
        if (mask == 0) mask = pages;
        builder.add_data(object, random_chunk(), mask, segments[rng() % segments.size()], frame);
      }
    }
  }
  return std::move(builder).build();
}

Manifest random_manifest(Rng& rng) {
  const auto text = [&] { return std::string(rng() % 30, static_cast<char>('a' + rng() % 26)); };
  Manifest out;
  out.version = rng() % 2 != 0 ? rng() : rng() % 1000;
  out.database = kDatabase;
  out.created_unix_seconds = rng() % (u64{1} << 33);
  u64 term = 0;
  for (u64 n = rng() % 5; n != 0; --n) {
    TermRecord record;
    record.term.value = term += 1 + rng() % 1000;
    for (std::byte& byte : record.salt) byte = static_cast<std::byte>(rng());
    record.replay_from = rng() % 100'000;
    if (rng() % 2 != 0) record.end = record.replay_from + rng() % 1000;
    record.closed_cleanly = rng() % 2 != 0;
    record.owner = {text(), text(), text(), text(), rng(), rng(), rng(), text()};
    out.terms.push_back(std::move(record));
  }
  out.last_term.value = term + rng() % 3;
  for (u64 n = rng() % 4; n != 0; --n) {
    auto& level = out.levels.emplace_back();
    for (u64 m = rng() % 5; m != 0; --m) {
      TableRecord table;
      table.id = {{rng() % 1000}, rng() % 1000};
      table.object_bytes = rng();
      table.entries = rng();
      table.erased_ranges = rng() % 10;
      table.meta_entries = rng() % 10;
      table.first_key = text();
      table.last_key = table.first_key + text();
      level.push_back(std::move(table));
    }
  }
  return out;
}

LogSample make_log_object(Rng& rng, const DatabaseKeys& keys, const Salt& salt, Term term, Seq seq,
                          u32 frame_count, Compression compression) {
  LogSample out;
  out.name = log_name(term, seq);
  std::array<std::byte, 4> random;
  for (std::byte& byte : random) byte = static_cast<std::byte>(rng());
  ObjectCipher cipher(keys, salt, out.name, random);
  lsm::LayerBuilder builder;
  for (u32 i = 0; i < frame_count; ++i) {
    const u32 count = static_cast<u32>(1 + rng() % kPagesPerFrameMax);
    const u8 first = static_cast<u8>(rng() % (kPagesPerChunk - count + 1));
    out.plain.push_back(make_content(rng, static_cast<Content>(rng() % 4), count * kPageBytes));
    const std::byte* pages[kPagesPerFrameMax];
    for (u32 page = 0; page < count; ++page) pages[page] = out.plain.back().data() + page * kPageBytes;
    out.frames.push_back(seal_frame(cipher, {pages, count}, first, compression, out.object));
    builder.add_data({9}, i, ((1u << count) - 1) << first, lsm::log_segment(term, seq),
                     out.frames.back());
  }
  builder.put_meta("name", "value");
  builder.erase({{10}, 5, 50, false});
  out.layer = std::move(builder).build();
  out.footer = {.term = term,
                .seq = seq,
                .durable_end = seq.value / 2,
                .journal_position = 0,
                .data_bytes = out.object.size(),
                .layer = {}};
  finish_log_object(cipher, out.layer, out.footer, compression, out.object);
  return out;
}

Result<lsm::Layer> read_back(const LogSample& sample, const DatabaseKeys& keys, const Salt& salt,
                             Bytes object) {
  TRY(const LogSlot slot, classify_log_slot(object));
  if (slot != LogSlot::log_object) return corrupt("test: not a log object");
  ObjectCipher cipher(keys, salt, sample.name);
  TRY(const LogFooter footer, decode_log_footer(cipher, object.size(), object, sample.footer.term,
                                                sample.footer.seq));
  TRY(lsm::Layer layer,
      decode_log_layer(cipher, footer, object.subspan(footer.layer.offset, footer.layer.stored_bytes)));
  for (std::size_t i = 0; i < sample.frames.size(); ++i) {
    const lsm::FramePointer& frame = sample.frames[i];
    std::vector<std::byte> plain(frame.page_count * kPageBytes);
    TRY_VOID(open_frame(cipher, frame, object.subspan(frame.offset, frame.stored_bytes), plain));
    if (plain != sample.plain[i]) return corrupt("test: wrong data");
  }
  return layer;
}

}  // namespace zerofs::format
