// Goal: the bytes of a table are those of FORMAT.md, so that a table written today opens for ever.
// Method: the worked example of the page is built anew and compared byte by byte.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>

#include "lsm_world.h"

namespace zerofs::lsm::test {

namespace {

constexpr ObjectId kObject{u64{3} << 40 | 1};

Layer example_layer() {
  LayerBuilder builder;
  builder.erase({kObject, 0, 9});
  builder.add_data(kObject, 5, 0x30, log_segment(Term{3}, Seq{2}),
                   {.offset = 4128,
                    .stored_bytes = 700,
                    .first_page = 4,
                    .page_count = 3,
                    .codec = Codec::zstd});
  builder.add_empty(kObject, 6, ~u32{0}, RunKind::zero);
  builder.put_meta("name", "value");
  builder.put_meta("none", {});
  return std::move(builder).build();
}

std::string hex(Bytes bytes) {
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

// The indented lines below a heading of FORMAT.md that begin with an offset.
std::string documented(const std::string& heading) {
  std::ifstream file(FORMAT_MD);
  REQUIRE(file);
  std::string out;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) inside = line == heading;
    if (inside && line.starts_with("    0000")) out += line + '\n';
  }
  return out;
}

}  // namespace

TEST_CASE("the worked example of FORMAT.md is what we write") {
  LsmWorld world;  // data key 07…, database id 09…, salt 05…
  TableOptions options = world.options();
  options.compression.stored = true;
  const std::vector<BuiltTable> tables = build_tables(example_layer(), options);
  REQUIRE(tables.size() == 1);
  const Bytes object = tables[0].object;

  format::ObjectCipher cipher(world.keys(), world.salt(), "sst/000003/0000000001");
  const format::BlobPointer index_blob{.offset = 96, .stored_bytes = 51, .plain_bytes = 31};
  const auto index_plain =
      format::open_blob(cipher, format::PieceKind::table_index, index_blob, object.subspan(96, 51));
  REQUIRE(index_plain);
  CHECK(hex(*index_plain) == documented("### The index of the example"));
  const auto index = decode_index(*index_plain, 96);
  REQUIRE(index);
  const format::BlobPointer block_blob = index->blocks.at(0).blob();
  const auto block = format::open_blob(cipher, format::PieceKind::table_block, block_blob,
                                       object.first(block_blob.stored_bytes));
  REQUIRE(block);
  CHECK(hex(*block) == documented("### The block of the example"));
  CHECK(hex(object) == documented("### The object of the example"));
}

}  // namespace zerofs::lsm::test
