#include "engine/lsm/table_reader.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "engine/store/backoff.h"

namespace zerofs::lsm {

namespace {
constexpr u64 kTailBytes = 256 * kKiB;  // opens a table of up to about a million runs at once
constexpr u32 kReadTriesMax = 20;  // with back-off about a minute and a half
}

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
      loaded_(runtime.executor) {}

TableReader::~TableReader() {
  if (index_) cache_.uncharge(index_->memory_bytes());
}

std::unexpected<Error> TableReader::damaged(Error error) const {
  spdlog::error("table {} is damaged: {} ({})", name_, error.text(), error.id());
  return std::unexpected(error);
}

// What may pass is retried a while; the caller's operation waits as it does for data.
Task<> TableReader::read_retrying(u64 offset, MutableBytes out) {
  store::Backoff backoff(50ms, 5s, runtime_.random);
  for (u32 tries = 1;; ++tries) {
    const Result<> got =
        co_await as_result(store_.read(name_, offset, out, store::Class::foreground));
    if (got) co_return {};
    const Code code = got.error().code();
    if (code == Code::not_found) {
      co_return damaged(Error(Code::corrupt, "the object is missing"));
    }
    if (code == Code::corrupt) co_return damaged(got.error());
    if (tries == kReadTriesMax) co_return std::unexpected(got.error());
    co_await sleep_for(runtime_, backoff.next());
  }
}

Task<> TableReader::read_index() {
  const u64 bytes = std::min(kTailBytes, record_.object_bytes);
  if (bytes < kTableEndBytes || record_.object_bytes % 16 != 0) {
    co_return damaged(Error(Code::corrupt, "impossible size", record_.object_bytes));
  }
  Buffer tail(bytes);
  const u64 tail_begin = record_.object_bytes - bytes;
  co_await read_retrying(tail_begin, tail);
  if (std::memcmp(tail.data() + bytes - 16, kTableMagic, sizeof kTableMagic) != 0) {
    co_return damaged(Error(Code::corrupt, "not a table"));
  }
  format::ObjectCipher cipher(keys_, salt_, name_);
  TableFooter footer;
  const Result<> opened = cipher.open(
      format::PieceKind::table_footer, record_.object_bytes - kTableEndBytes, Codec::raw,
      sizeof footer, tail.bytes().last(kTableEndBytes).first(kTableFooterSealedBytes),
      {reinterpret_cast<std::byte*>(&footer), sizeof footer});
  if (!opened) co_return damaged(opened.error());
  const format::BlobPointer blob{.offset = footer.index_offset,
                                 .stored_bytes = footer.index_stored_bytes,
                                 .plain_bytes = footer.index_plain_bytes,
                                 .codec = static_cast<Codec>(u8{footer.index_codec})};
  const u64 end = record_.object_bytes - kTableEndBytes;
  if (blob.offset > end || blob.stored_bytes > end - blob.offset) {
    co_return damaged(Error(Code::corrupt, "the index lies outside"));
  }
  Buffer fetched;
  Bytes sealed;
  if (blob.offset >= tail_begin) {
    sealed = tail.bytes().subspan(blob.offset - tail_begin, blob.stored_bytes);
  } else {
    fetched = Buffer(blob.stored_bytes);
    co_await read_retrying(blob.offset, fetched);
    sealed = fetched;
  }
  const Result<Buffer> plain =
      format::open_blob(cipher, format::PieceKind::table_index, blob, sealed);
  if (!plain) co_return damaged(plain.error());
  Result<TableIndex> index = decode_index(*plain);
  if (!index) co_return damaged(index.error());
  for (const IndexBlock& block : index->blocks) {
    if (block.blob.offset > end || block.blob.stored_bytes > end - block.blob.offset) {
      co_return damaged(Error(Code::corrupt, "a block lies outside", block.blob.offset));
    }
  }
  for (const SegmentUse& use : index->segments) segments_.push_back(use.segment);
  index_ = std::move(*index);
  cache_.charge(index_->memory_bytes());
  co_return {};
}

Task<> TableReader::load_index() {
  while (!index_) {
    if (loading_) {
      co_await loaded_.wait();
      continue;
    }
    loading_ = true;
    const Result<> read = co_await as_result(read_index());
    loading_ = false;
    loaded_.wake_all();
    if (!read) co_return read;
  }
  co_return {};
}

std::size_t TableReader::block_for(std::string_view key) const {
  const auto at = std::ranges::lower_bound(
      index_->blocks, key, {}, [](const IndexBlock& block) { return std::string_view(block.last_key); });
  return static_cast<std::size_t>(at - index_->blocks.begin());
}

Task<TableReader::Block> TableReader::block(std::size_t index) {
  const format::BlobPointer blob = index_->blocks[index].blob;
  if (Block cached = cache_.find(record_.id, blob.offset)) co_return std::move(cached);
  Buffer sealed(blob.stored_bytes);
  co_await read_retrying(blob.offset, sealed);
  format::ObjectCipher cipher(keys_, salt_, name_);
  const Result<Buffer> plain =
      format::open_blob(cipher, format::PieceKind::table_block, blob, sealed);
  if (!plain) co_return damaged(plain.error());
  Result<Block> decoded = TableBlock::decode(*plain);
  if (!decoded) co_return damaged(decoded.error());
  cache_.insert(record_.id, blob.offset, *decoded);
  co_return std::move(*decoded);
}

u32 TableReader::resolve_erased(ObjectId object, u64 chunk, u32 need,
                                std::vector<Found>& out) const {
  if (need == 0) return 0;
  const auto after = std::ranges::upper_bound(
      index_->erased, std::pair(object, chunk), {},
      [](const ErasedRange& range) { return std::pair(range.object, range.first); });
  if (after == index_->erased.begin()) return need;
  const ErasedRange& range = *std::prev(after);
  if (range.object != object || chunk > range.last) return need;
  out.push_back({.mask = need, .kind = RunKind::hole, .segment = {}, .frame = {}});
  return 0;
}

Result<u32> TableReader::find_in_block(const TableBlock& block, const std::string& key,
                                       ObjectId object, u64 chunk, u32 need,
                                       std::vector<Found>& out) const {
  const std::size_t at = block.lower_bound(key);
  if (at < block.records().size() && block.records()[at].key == key) {
    const Result<u32> left = find_in_runs(block.records()[at].value, segments_, need, out);
    if (!left) return damaged(left.error());
    need = *left;
  }
  return resolve_erased(object, chunk, need, out);
}

std::optional<u32> TableReader::try_find(ObjectId object, u64 chunk, u32 need,
                                         std::vector<Found>& out) {
  const std::string key = data_key(object, chunk);
  if (!in_range(key)) return need;
  if (!index_) return {};
  const std::size_t at = block_for(key);
  if (at == index_->blocks.size()) return resolve_erased(object, chunk, need, out);
  const Block cached = cache_.find(record_.id, index_->blocks[at].blob.offset);
  if (cached == nullptr) return {};
  const std::size_t begin = out.size();
  const Result<u32> left = find_in_block(*cached, key, object, chunk, need, out);
  if (!left) {
    out.resize(begin);
    return {};  // the waiting call reports the damage
  }
  return *left;
}

Task<u32> TableReader::find(ObjectId object, u64 chunk, u32 need, std::vector<Found>& out) {
  const std::string key = data_key(object, chunk);
  if (!in_range(key)) co_return need;
  co_await load_index();
  const std::size_t at = block_for(key);
  if (at == index_->blocks.size()) co_return resolve_erased(object, chunk, need, out);
  const Block found = co_await block(at);
  co_return find_in_block(*found, key, object, chunk, need, out);
}

Task<std::optional<MetaEntry>> TableReader::find_meta(std::string key) {
  const std::string encoded = meta_key(key);
  std::optional<MetaEntry> none;
  if (!in_range(encoded)) co_return std::move(none);
  co_await load_index();
  const std::size_t at = block_for(encoded);
  if (at == index_->blocks.size()) co_return std::move(none);
  const Block found = co_await block(at);
  const std::size_t record = found->lower_bound(encoded);
  if (record == found->records().size() || found->records()[record].key != encoded) {
    co_return std::move(none);
  }
  Result<std::optional<std::string>> value = decode_meta_value(found->records()[record].value);
  if (!value) co_return damaged(value.error());
  co_return std::optional<MetaEntry>(MetaEntry{std::move(key), std::move(*value)});
}

Task<> TableReader::scan_meta(std::string prefix, std::vector<MetaEntry>& out) {
  const std::string begin = meta_key(prefix);
  if (record_.last_key < begin) co_return {};
  co_await load_index();
  for (std::size_t at = block_for(begin); at < index_->blocks.size(); ++at) {
    const Block found = co_await block(at);
    for (std::size_t i = found->lower_bound(begin); i < found->records().size(); ++i) {
      const BlockRecord& record = found->records()[i];
      if (!record.key.starts_with(begin)) co_return {};
      Result<std::optional<std::string>> value = decode_meta_value(record.value);
      if (!value) co_return damaged(value.error());
      out.push_back({record.key.substr(1), std::move(*value)});
    }
  }
  co_return {};
}

Task<std::vector<u64>> TableReader::chunks_between(ObjectId object, u64 first, u64 last,
                                                   std::size_t count_max) {
  std::vector<u64> out;
  const std::string begin = data_key(object, first);
  const std::string end = data_key(object, last);
  if (record_.entries == 0 || record_.last_key < begin || record_.first_key > end) {
    co_return std::move(out);
  }
  co_await load_index();
  for (std::size_t at = block_for(begin); at < index_->blocks.size(); ++at) {
    const Block found = co_await block(at);
    for (std::size_t i = found->lower_bound(begin); i < found->records().size(); ++i) {
      const BlockRecord& record = found->records()[i];
      if (record.key > end || out.size() == count_max) co_return std::move(out);
      const std::optional<DataKey> key = parse_data_key(record.key);
      if (!key) co_return damaged(Error(Code::corrupt, "a key is malformed"));
      out.push_back(key->chunk);
    }
  }
  co_return std::move(out);
}

}  // namespace zerofs::lsm
