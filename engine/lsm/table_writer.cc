#include "engine/lsm/table_writer.h"

#include <algorithm>
#include <bit>

namespace zerofs::lsm {

namespace {
std::array<std::byte, 4> random_of(u64 seed, u64 number) {
  const u64 mixed = (seed + number) * 0x9e3779b97f4a7c15ull;
  std::array<std::byte, 4> out;
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&mixed) + 4, out.size());
  return out;
}
}  // namespace

TableWriter::TableWriter(const TableOptions& options, u64 number)
    : options_(options),
      cipher_(options.keys, options.salt, format::table_name({options.term, number}),
              random_of(options.random_seed, number)) {
  record_.id = {options.term, number};
}

void TableWriter::widen(const std::string& first, const std::string& last) {
  const bool nothing = record_.first_key.empty();
  if (nothing || first < record_.first_key) record_.first_key = first;
  if (nothing || last > record_.last_key) record_.last_key = last;
}

u32 TableWriter::segment_index(SegmentId segment) {
  const auto [at, added] =
      segment_indexes_.insert({segment.value, static_cast<u32>(index_.segments.size())});
  if (added) index_.segments.push_back({segment, 0});
  return at->second;
}

void TableWriter::add(std::string key, std::string_view value) {
  INVARIANT(last_key_.empty() || key > last_key_);
  if (!block_.empty() && block_.bytes() + key.size() + value.size() > options_.block_bytes) {
    finish_block();
  }
  widen(key, key);
  block_.add(key, value);
  last_key_ = std::move(key);
}

void TableWriter::finish_block() {
  if (block_.empty()) return;
  const std::vector<std::byte> plain = block_.finish();
  const format::BlobPointer blob = format::seal_blob(cipher_, format::PieceKind::table_block, plain,
                                                     options_.compression, object_);
  index_.blocks.push_back({last_key_, blob});
}

void TableWriter::add_runs(ObjectId object, u64 chunk, std::span<const Entry> runs,
                           const Layer& layer) {
  std::vector<u32> segment_to(layer.segments.size());
  for (const Entry& entry : runs) {
    if (entry.run.kind() != RunKind::data) continue;
    const u32 to = segment_index(layer.segments[entry.run.segment]);
    segment_to[entry.run.segment] = to;
    const FramePointer frame = entry.run.frame();
    // Runs of one frame may lie in one chunk only, so neighbours are all there is to compare.
    if (frames_.insert({{to, frame.offset}, 1}).second) {
      index_.segments[to].bytes += frame.stored_bytes;
    }
  }
  frames_.clear();
  add(data_key(object, chunk), encode_runs(runs, segment_to));
  record_.entries += runs.size();
}

void TableWriter::add_meta(const MetaEntry& entry) {
  add(meta_key(entry.key), encode_meta_value(entry.value));
  ++record_.meta_entries;
}

void TableWriter::add_erased(const ErasedRange& range) {
  widen(data_key(range.object, range.first), data_key(range.object, range.last));
  index_.erased.push_back(range);
  ++record_.erased_ranges;
}

BuiltTable TableWriter::finish() && {
  finish_block();
  const format::BlobPointer index =
      format::seal_blob(cipher_, format::PieceKind::table_index, encode_index(index_),
                        options_.compression, object_);
  TableFooter footer{};
  footer.index_offset = index.offset;
  footer.index_stored_bytes = index.stored_bytes;
  footer.index_plain_bytes = index.plain_bytes;
  footer.index_codec = static_cast<u8>(index.codec);
  footer.entries = record_.entries;

  const u64 begin = object_.size();
  const u64 offset = format::align_piece(begin);
  object_.resize(offset + kTableEndBytes);
  std::memset(object_.data() + begin, 0, object_.size() - begin);
  cipher_.seal(format::PieceKind::table_footer, offset, Codec::raw, sizeof footer,
               struct_bytes(footer),
               object_.mutable_bytes().subspan(offset, kTableFooterSealedBytes));
  std::memcpy(object_.data() + object_.size() - 16, kTableMagic, sizeof kTableMagic);
  record_.object_bytes = object_.size();
  return {std::move(record_), std::move(object_)};
}

namespace {

// Hands out the erased ranges in order, cut at table boundaries.
class ErasedParts {
 public:
  explicit ErasedParts(const std::vector<ErasedRange>& erased)
      : rest_(erased.begin(), erased.end()) {}

  // What lies at or below (object, chunk).
  void give_up_to(ObjectId object, u64 chunk, TableWriter& writer) {
    while (next_ < rest_.size()) {
      ErasedRange& range = rest_[next_];
      if (range.object > object || (range.object == object && range.first > chunk)) return;
      if (range.object == object && range.last > chunk) {
        // A part is no longer the deletion of a whole object: only less droppable for that.
        writer.add_erased({range.object, range.first, chunk, false});
        range.first = chunk + 1;
        range.whole_object = false;
        return;
      }
      writer.add_erased(range);
      ++next_;
    }
  }
  void give_rest(TableWriter& writer) {
    for (; next_ < rest_.size(); ++next_) writer.add_erased(rest_[next_]);
  }

 private:
  std::vector<ErasedRange> rest_;
  std::size_t next_ = 0;
};

}  // namespace

std::vector<BuiltTable> build_tables(const Layer& layer, const TableOptions& options) {
  std::vector<BuiltTable> out;
  u64 number = options.first_number;
  auto writer = std::make_unique<TableWriter>(options, number++);
  ErasedParts erased(layer.erased);
  const auto cut = [&] {
    out.push_back(std::move(*writer).finish());
    writer = std::make_unique<TableWriter>(options, number++);
  };

  for (std::size_t i = 0; i < layer.entries.size();) {
    std::size_t end = i + 1;
    while (end < layer.entries.size() && layer.entries[end].key == layer.entries[i].key) ++end;
    const EntryView at = view_of(layer, layer.entries[i]);
    writer->add_runs(at.object, at.chunk, std::span(layer.entries).subspan(i, end - i), layer);
    i = end;
    if (writer->bytes() >= options.table_bytes_max && i < layer.entries.size()) {
      erased.give_up_to(at.object, at.chunk, *writer);
      cut();
    }
  }
  // Data keys sort before meta keys, so what is left of the ranges belongs before the meta.
  erased.give_rest(*writer);
  for (const MetaEntry& entry : layer.meta) {
    if (writer->bytes() >= options.table_bytes_max) cut();
    writer->add_meta(entry);
  }
  if (!writer->empty()) out.push_back(std::move(*writer).finish());
  return out;
}

}  // namespace zerofs::lsm
