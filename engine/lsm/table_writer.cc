#include "engine/lsm/table_writer.h"

#include <algorithm>
#include <tuple>

#include "engine/format/trailer.h"
#include "engine/lsm/table_key.h"

namespace zerofs::lsm {

namespace {

// What a piece adds to its plain bytes.
constexpr u64 kPieceBytes = format::kSealOverhead + format::kPieceAlignment;
// What the counts in front of the index's sections take.
constexpr u64 kIndexHeadBytes = 64;
constexpr u64 kRunBytesMax = 16;
constexpr u64 kChunkRecordBytesMax = sizeof(DataKey) + kPagesPerChunk * kRunBytesMax;

std::array<std::byte, 4> random_of(u64 seed, u64 number) {
  const u64 mixed = (seed + number) * 0x9e3779b97f4a7c15ull;
  std::array<std::byte, 4> out;
  std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&mixed) + 4, out.size());
  return out;
}

bool repeats_a_frame(std::span<const Found> runs, std::size_t at) {
  return std::ranges::any_of(runs.first(at), [&](const Found& run) {
    return run.kind == RunKind::data && run.segment == runs[at].segment &&
           run.frame.offset == runs[at].frame.offset;
  });
}

}  // namespace

// ---- one table

TableWriter::TableWriter(const TableOptions& options, u64 number)
    : options_(options),
      cipher_(options.keys, options.salt, format::table_name({options.term, number}),
              random_of(options.random_seed, number)) {
  record_.id = {options.term, number};
}

u32 TableWriter::use_segment(SegmentId segment, u64 bytes) {
  const u32 next = static_cast<u32>(index_.segments.size());
  const auto [at, added] = segment_index_.insert({segment.value, next});
  if (added) {
    index_.segments.push_back({segment, 0});
    index_bytes_ += kIndexBytesPerSegment;
  }
  index_.segments[at->second].bytes += bytes;
  return at->second;
}

void TableWriter::add(std::string_view key, std::string_view value) {
  INVARIANT(last_key_.empty() || key > last_key_);
  if (!block_.empty() && block_.bytes_with(key.size() + value.size()) > options_.block_bytes) {
    finish_block();
  }
  if (last_key_.empty()) record_.first_key = key;
  block_.add(key, value);
  last_key_ = key;
}

void TableWriter::finish_block() {
  const std::vector<std::byte> plain = block_.finish();
  const format::BlobPointer blob = format::seal_blob(cipher_, format::PieceKind::table_block, plain,
                                                     options_.compression, object_);
  index_.add_block(last_key_, blob);
  index_bytes_ += kIndexBytesPerBlock + last_key_.size();
}

void TableWriter::add_runs(ObjectId object, u64 chunk, std::span<const Found> runs) {
  INVARIANT(!runs.empty() && runs.size() <= kPagesPerChunk);
  run_segments_.clear();
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].kind != RunKind::data) {
      run_segments_.push_back(0);
      continue;
    }
    const u64 bytes = repeats_a_frame(runs, i) ? 0 : runs[i].frame.stored_bytes;
    run_segments_.push_back(use_segment(runs[i].segment, bytes));
  }
  Writer value;
  encode_runs(runs, run_segments_, value);
  add(DataKey(object, chunk), text_of(value.bytes()));
  record_.entries += runs.size();
}

void TableWriter::add_meta(const MetaEntry& entry) {
  add(meta_table_key(entry.key), encode_meta_value(entry.value));
  ++record_.meta_entries;
}

void TableWriter::add_erased(const ErasedRange& range) {
  index_.erased.push_back(range);
  index_bytes_ += kIndexBytesPerErased;
  ++record_.erased_ranges;
}

bool TableWriter::has_room(u64 record_bytes, u64 segments) const {
  // The record may end the current block and begin one, which needs another index item.
  const u64 blocks = block_.bytes_with(record_bytes) + 2 * kPieceBytes;
  const u64 index = index_bytes_ + kIndexHeadBytes + kPieceBytes +
                    segments * kIndexBytesPerSegment + 2 * kIndexBytesPerBlock + last_key_.size() +
                    record_bytes + 2 * kIndexBytesPerErased;
  return object_.size() + blocks + index + kTableEndBytes <= options_.table_bytes_max;
}

BuiltTable TableWriter::finish() && {
  INVARIANT(!empty());
  if (!block_.empty()) finish_block();
  record_.last_key = last_key_;
  if (!index_.erased.empty()) {
    const ErasedRange& first = index_.erased.front();
    const ErasedRange& last = index_.erased.back();
    const DataKey first_key(first.object, first.first);
    if (last_key_.empty() || first_key.text() < record_.first_key) record_.first_key = first_key;
    record_.last_key = std::max<std::string_view>(last_key_, DataKey(last.object, last.last));
  }
  index_.entries = record_.entries;
  index_.meta_entries = record_.meta_entries;
  const format::BlobPointer index = format::seal_blob(
      cipher_, format::PieceKind::table_index, encode_index(index_), options_.compression, object_);
  const TableFooter footer = encode_table_footer(index);

  const u64 begin = object_.size();
  const u64 offset = format::align_piece(begin);
  object_.resize(offset + kTableFooterSealedBytes);
  std::memset(object_.data() + begin, 0, offset - begin);
  cipher_.seal(format::PieceKind::table_footer, offset, Codec::raw, sizeof footer,
               struct_bytes(footer), object_.mutable_bytes().subspan(offset));
  object_.append(struct_bytes(format::trailer_of(format::kTableMagic)));
  record_.object_bytes = object_.size();
  return {std::move(record_), std::move(object_)};
}

// ---- several

TableSplitter::TableSplitter(const TableOptions& options) : options_(options) {
  writer_.emplace(options_, options_.first_number);
}

void TableSplitter::cut() {
  if (writer_->empty()) return;
  out_.push_back(std::move(*writer_).finish());
  writer_.emplace(options_, options_.first_number + ++made_);
}

void TableSplitter::write_open_range() {
  if (open_) writer_->add_erased(*open_);
  open_.reset();
}

void TableSplitter::add_erased(const ErasedRange& range) {
  write_open_range();
  if (!writer_->has_room(0, 0)) cut();
  open_ = range;
}

void TableSplitter::add_runs(ObjectId object, u64 chunk, std::span<const Found> runs) {
  if (open_ && std::tie(open_->object, open_->last) < std::tie(object, chunk)) write_open_range();
  INVARIANT(!open_ || (open_->object == object && open_->first <= chunk));
  if (!writer_->has_room(kChunkRecordBytesMax, runs.size())) {
    if (open_ && open_->first < chunk) {
      ErasedRange before = *open_;
      before.last = chunk - 1;
      writer_->add_erased(before);
      open_->first = chunk;
    }
    cut();
  }
  writer_->add_runs(object, chunk, runs);
}

void TableSplitter::add_meta(const MetaEntry& entry) {
  write_open_range();
  const u64 bytes = entry.key.size() + (entry.value ? entry.value->size() : 0) + 2;
  if (!writer_->has_room(bytes, 0)) cut();
  writer_->add_meta(entry);
}

void TableSplitter::end() {
  write_open_range();
  cut();
}

std::vector<BuiltTable> TableSplitter::finish() && {
  end();
  return std::move(out_);
}

std::vector<BuiltTable> build_tables(const Layer& layer, const TableOptions& options) {
  TableSplitter out(options);
  std::span<const ErasedRange> erased = layer.erased;
  std::vector<Found> runs;
  for (std::size_t i = 0; i < layer.entries.size();) {
    const u64 key = layer.entries[i].key;
    const EntryView at = view_of(layer, layer.entries[i]);
    runs.clear();
    for (; i < layer.entries.size() && layer.entries[i].key == key; ++i) {
      const Run& run = layer.entries[i].run;
      if (run.kind() == RunKind::data) {
        runs.push_back({run.mask, RunKind::data, layer.segments[run.segment], run.frame()});
      } else {
        runs.push_back({run.mask, run.kind(), {}, {}});
      }
    }
    const auto begun = [&](const ErasedRange& range) {
      return std::tie(range.object, range.first) <= std::tie(at.object, at.chunk);
    };
    for (; !erased.empty() && begun(erased.front()); erased = erased.subspan(1)) {
      out.add_erased(erased.front());
    }
    out.add_runs(at.object, at.chunk, runs);
  }
  for (const ErasedRange& range : erased) out.add_erased(range);
  for (const MetaEntry& entry : layer.meta) out.add_meta(entry);
  return std::move(out).finish();
}

}  // namespace zerofs::lsm
