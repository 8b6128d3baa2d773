#include "engine/lsm/table_reader.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/format/trailer.h"
#include "engine/store/patience.h"

namespace zerofs::lsm {

namespace {

constexpr u64 kTailBytes = 256 * kKiB;  // holds the whole index of most tables
// A larger index is decoded by a worker: it would hold up the reactor for too long.
constexpr u64 kIndexBytesInline = 4 * kKiB;
constexpr u64 kIndexFlight = ~u64{0};

Result<TableIndex> open_index(const format::DatabaseKeys& keys, const format::Salt& salt,
                              const std::string& name, const format::BlobPointer& blob,
                              Bytes sealed) {
  format::ObjectCipher cipher(keys, salt, name);
  TRY(const Buffer plain, format::open_blob(cipher, format::PieceKind::table_index, blob, sealed));
  return decode_index(plain, blob.offset);
}

}  // namespace

TableReader::TableReader(Runtime runtime, store::ObjectStore& store,
                         const format::DatabaseKeys& keys, const format::Salt& salt,
                         format::TableRecord record, BlockCache& cache)
    : runtime_(runtime),
      store_(store),
      keys_(keys),
      salt_(salt),
      record_(std::move(record)),
      name_(format::table_name(record_.id)),
      cache_(cache),
      landed_(runtime.executor) {}

TableReader::~TableReader() {
  INVARIANT(flights_.empty());
  if (index_) cache_.uncharge(index_->memory_bytes());
}

// ---- fetching

// The log says it once: a client that reads a damaged range again and again must not fill the disk.
std::unexpected<Error> TableReader::damaged(Error error) {
  if (!damage_logged_) {
    spdlog::error("table {} is damaged: {} ({})", name_, error.text(), error.id());
  }
  damage_logged_ = true;
  return std::unexpected(error);
}

// The caller's operation waits as it does for data.
Task<> TableReader::read_retrying(u64 offset, MutableBytes out, store::Class klass) {
  const Result<> got =
      co_await as_result(store::read_patiently(runtime_, store_, name_, offset, out, klass));
  if (got) co_return {};
  const Code code = got.error().code();
  if (code == Code::not_found) {
    if (!damage_logged_) spdlog::error("table {} is missing from the store", name_);
    damage_logged_ = true;
  }
  if (code == Code::corrupt) co_return damaged(got.error());
  co_return got;
}

Task<TableIndex> TableReader::read_index() {
  if (record_.object_bytes < kTableEndBytes ||
      record_.object_bytes % format::kPieceAlignment != 0) {
    co_return damaged({Code::corrupt, "impossible size", record_.object_bytes});
  }
  Buffer tail(std::min(kTailBytes, record_.object_bytes));
  const u64 tail_begin = record_.object_bytes - tail.size();
  co_await read_retrying(tail_begin, tail);
  const Result<> trailer = format::check_trailer(tail, format::kTableMagic);
  if (!trailer) co_return damaged(trailer.error());

  const u64 footer_offset = record_.object_bytes - kTableEndBytes;
  format::ObjectCipher cipher(keys_, salt_, name_);
  TableFooter footer;
  const Result<> opened =
      cipher.open(format::PieceKind::table_footer, footer_offset, Codec::raw, sizeof footer,
                  tail.bytes().last(kTableEndBytes).first(kTableFooterSealedBytes),
                  {reinterpret_cast<std::byte*>(&footer), sizeof footer});
  if (!opened) co_return damaged(opened.error());
  const Result<format::BlobPointer> blob = decode_table_footer(footer, footer_offset);
  if (!blob) co_return damaged(blob.error());

  // What the tail holds of the index, and before it what it does not.
  Buffer sealed(blob->stored_bytes);
  const u64 missing = tail_begin - std::min(tail_begin, blob->offset);
  if (missing != 0) co_await read_retrying(blob->offset, sealed.mutable_bytes().first(missing));
  std::ranges::copy(
      tail.bytes().subspan(blob->offset + missing - tail_begin, blob->stored_bytes - missing),
      sealed.data() + missing);
  std::optional<Result<TableIndex>> index;
  if (sealed.size() <= kIndexBytesInline) {
    index = open_index(keys_, salt_, name_, *blob, sealed);
  } else {
    auto work = [this, &sealed, at = *blob] { return open_index(keys_, salt_, name_, at, sealed); };
    index = co_await offload(runtime_.executor, Priority::urgent, std::move(work));
  }
  if (!*index) co_return damaged(index->error());
  const TableIndex& found = **index;
  if (found.entries != record_.entries || found.meta_entries != record_.meta_entries ||
      found.erased.size() != record_.erased_ranges) {
    co_return damaged({Code::corrupt, "the manifest describes another table"});
  }
  co_return std::move(*index);
}

Task<> TableReader::need_index() {
  while (!index_) {
    if (flights_.contains(kIndexFlight)) {
      co_await landed_.wait();
      continue;
    }
    flights_.insert(kIndexFlight);
    Result<TableIndex> index = co_await as_result(read_index());
    flights_.erase(kIndexFlight);
    landed_.wake_all();
    if (!index) co_return std::unexpected(index.error());
    index_ = std::move(*index);
    cache_.charge(index_->memory_bytes());
  }
  co_return {};
}

Task<TableReader::Block> TableReader::read_block(format::BlobPointer blob) {
  Buffer sealed(blob.stored_bytes);
  co_await read_retrying(blob.offset, sealed);
  format::ObjectCipher cipher(keys_, salt_, name_);
  Result<Buffer> plain = format::open_blob(cipher, format::PieceKind::table_block, blob, sealed);
  if (!plain) co_return damaged(plain.error());
  Result<Block> block = TableBlock::decode(std::move(*plain));
  if (!block) co_return damaged(block.error());
  co_return std::move(block);
}

Task<TableReader::Block> TableReader::block(std::size_t index) {
  INVARIANT(index_ && index < index_->blocks.size());
  const format::BlobPointer blob = index_->blocks[index].blob();
  for (;;) {
    if (Block cached = cache_.find(record_.id, blob.offset)) co_return std::move(cached);
    if (!flights_.contains(blob.offset)) break;
    co_await landed_.wait();
  }
  flights_.insert(blob.offset);
  Result<Block> read = co_await as_result(read_block(blob));
  flights_.erase(blob.offset);
  landed_.wake_all();
  if (read) cache_.insert(record_.id, blob.offset, *read);
  co_return std::move(read);
}

// ---- for compaction

Task<Buffer> TableReader::read_blocks(std::size_t first, std::size_t count) {
  INVARIANT(index_ && count != 0 && first + count <= index_->blocks.size());
  const format::BlobPointer begin = index_->blocks[first].blob();
  const format::BlobPointer last = index_->blocks[first + count - 1].blob();
  Buffer stored(last.offset + last.stored_bytes - begin.offset);
  co_await read_retrying(begin.offset, stored, store::Class::bulk);
  co_return std::move(stored);
}

Result<std::vector<std::shared_ptr<const TableBlock>>> TableReader::open_blocks(
    std::size_t first, std::size_t count, Bytes stored) const {
  format::ObjectCipher cipher(keys_, salt_, name_);
  std::vector<std::shared_ptr<const TableBlock>> out;
  const u64 begin = index_->blocks[first].blob().offset;
  for (std::size_t i = first; i < first + count; ++i) {
    const format::BlobPointer blob = index_->blocks[i].blob();
    TRY(Buffer plain, format::open_blob(cipher, format::PieceKind::table_block, blob,
                                        stored.subspan(blob.offset - begin, blob.stored_bytes)));
    TRY(std::shared_ptr<const TableBlock> block, TableBlock::decode(std::move(plain)));
    out.push_back(std::move(block));
  }
  return out;
}

// ---- looking up

u32 TableReader::find_in_erased(ObjectId object, u64 chunk, u32 need,
                                std::vector<Found>& out) const {
  if (need == 0 || !covers(index_->erased, object, chunk)) return need;
  out.push_back({need, RunKind::hole, {}, {}});
  return 0;
}

Result<u32> TableReader::find_in_block(const TableBlock& block, std::string_view key,
                                       ObjectId object, u64 chunk, u32 need,
                                       std::vector<Found>& out) {
  const TableBlock::Cursor at = block.seek(key);
  if (!at.at_end() && at.key() == key) {
    const Result<u32> left = find_in_runs(at.value(), index_->segments, need, out);
    if (!left) return damaged(left.error());
    need = *left;
  }
  return find_in_erased(object, chunk, need, out);
}

std::optional<u32> TableReader::try_find(ObjectId object, u64 chunk, u32 need,
                                         std::vector<Found>& out) {
  const DataKey key(object, chunk);
  if (!in_range(key)) return need;
  if (!index_) return {};
  const std::size_t at = index_->block_for(key);
  if (at == index_->blocks.size()) return find_in_erased(object, chunk, need, out);
  const Block cached = cache_.find(record_.id, index_->blocks[at].blob().offset);
  if (cached == nullptr) return {};
  const std::size_t begin = out.size();
  const Result<u32> left = find_in_block(*cached, key, object, chunk, need, out);
  if (left) return *left;
  out.resize(begin);
  return {};  // the call that waits reports the damage
}

Task<u32> TableReader::find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) {
  const DataKey key(object, chunk);
  if (!in_range(key)) co_return need;
  co_await need_index();
  const std::size_t at = index_->block_for(key);
  if (at == index_->blocks.size()) co_return find_in_erased(object, chunk, need, out);
  const Block found = co_await block(at);
  co_return find_in_block(*found, key, object, chunk, need, out);
}

Task<std::optional<MetaEntry>> TableReader::find_meta(std::string key) {
  const std::string full = meta_table_key(key);
  std::optional<MetaEntry> none;
  if (!in_range(full)) co_return std::move(none);
  co_await need_index();
  const std::size_t index = index_->block_for(full);
  if (index == index_->blocks.size()) co_return std::move(none);
  const Block found = co_await block(index);
  const TableBlock::Cursor at = found->seek(full);
  if (at.at_end() || at.key() != full) co_return std::move(none);
  Result<std::optional<std::string>> value = decode_meta_value(at.value());
  if (!value) co_return damaged(value.error());
  co_return std::optional<MetaEntry>(MetaEntry{std::move(key), std::move(*value)});
}

Task<> TableReader::scan_meta(std::string prefix, std::vector<MetaEntry>& out) {
  const std::string begin = meta_table_key(prefix);
  if (record_.meta_entries == 0 || record_.last_key < begin) co_return {};
  if (record_.first_key > begin && !record_.first_key.starts_with(begin)) co_return {};
  co_await need_index();
  for (std::size_t index = index_->block_for(begin); index < index_->blocks.size(); ++index) {
    const Block found = co_await block(index);
    for (TableBlock::Cursor at = found->seek(begin); !at.at_end(); at.next()) {
      if (!at.key().starts_with(begin)) co_return {};
      Result<std::optional<std::string>> value = decode_meta_value(at.value());
      if (!value) co_return damaged(value.error());
      out.push_back({std::string(at.key().substr(1)), std::move(*value)});
    }
  }
  co_return {};
}

Task<std::vector<u64>> TableReader::chunks_between(ObjectId object, u64 first, u64 last,
                                                   std::size_t count_max) {
  INVARIANT(first <= last && last <= kChunkIndexMax);
  std::vector<u64> out;
  const DataKey begin(object, first);
  const DataKey end(object, last);
  if (record_.entries == 0 || record_.last_key < begin.text() || record_.first_key > end.text()) {
    co_return std::move(out);
  }
  co_await need_index();
  for (std::size_t index = index_->block_for(begin); index < index_->blocks.size(); ++index) {
    const Block found = co_await block(index);
    for (TableBlock::Cursor at = found->seek(begin); !at.at_end(); at.next()) {
      if (at.key() > end.text() || out.size() == count_max) co_return std::move(out);
      const std::optional<EntryView> key = parse_data_key(at.key());
      if (!key) co_return damaged({Code::corrupt, "a key is malformed"});
      out.push_back(key->chunk);
    }
  }
  co_return std::move(out);
}

}  // namespace zerofs::lsm
