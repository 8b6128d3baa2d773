// Any bytes as a table's block, values, index or footer (FORMAT.md, "Table"): refused, or used as a
// reader would. The first byte says which.
#include "engine/lsm/table_block.h"
#include "engine/lsm/table_index.h"
#include "engine/lsm/table_key.h"

namespace {

using namespace zerofs;
using namespace zerofs::lsm;

void use_value(std::string_view value) {
  const std::vector<SegmentUse> segments(7);
  for (const u32 need : {~u32{0}, u32{0x00ff00ff}, u32{1}}) {
    std::vector<Found> found;
    const Result<u32> left = find_in_runs(value, segments, need, found);
    if (!left) continue;
    u32 seen = 0;
    for (const Found& run : found) {
      INVARIANT(run.mask != 0 && (run.mask & seen) == 0);
      seen |= run.mask;
    }
    INVARIANT((seen | *left) == need && (seen & *left) == 0);
  }
  static_cast<void>(decode_meta_value(value));
}

void use_block(Bytes bytes) {
  const auto block = TableBlock::decode(Buffer::copy_of(bytes));
  if (!block) return;
  std::string previous;
  bool first = true;
  for (TableBlock::Cursor at = (*block)->begin(); !at.at_end(); at.next()) {
    INVARIANT(first || at.key() > previous);
    previous = at.key();
    first = false;
    static_cast<void>(parse_data_key(at.key()));
    static_cast<void>(parse_meta_key(at.key()));
    use_value(at.value());
    INVARIANT((*block)->seek(previous).key() == previous);
  }
  INVARIANT(!first && (*block)->seek(previous + '\0').at_end());
}

void use_index(Bytes bytes) {
  Reader in(bytes);
  const u64 blocks_end = format::align_piece(in.get<u32>());
  const Result<TableIndex> index = decode_index(bytes.last(in.left()), blocks_end);
  if (!index) return;
  for (std::size_t i = 0; i < index->blocks.size(); ++i) {
    const format::BlobPointer blob = index->blocks[i].blob();
    INVARIANT(blob.offset + blob.stored_bytes <= blocks_end);
    INVARIANT(index->block_for(index->last_key(i)) == i);
  }
  Layer shell;
  shell.erased = index->erased;
  INVARIANT(check_layer(shell));
  const Result<TableIndex> again = decode_index(encode_index(*index), blocks_end);
  INVARIANT(again && *again == *index);
}

void use_footer(Bytes bytes) {
  if (bytes.size() < sizeof(TableFooter) + 8) return;
  Reader in(bytes.last(8));
  const u64 footer_offset = in.get<u64>();
  const auto index = decode_table_footer(struct_from<TableFooter>(bytes), footer_offset);
  if (index) INVARIANT(index->offset + index->stored_bytes <= footer_offset);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t size) {
  if (size == 0) return 0;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: use_block(bytes); break;
    case 1: use_value(text_of(bytes)); break;
    case 2: use_index(bytes); break;
    default: use_footer(bytes); break;
  }
  return 0;
}
