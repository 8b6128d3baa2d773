#include "engine/lsm/table_block.h"

#include <algorithm>

namespace zerofs::lsm {

namespace {

// The record at the start of a Reader, its key still without what it shares with the one before.
struct RawRecord {
  u64 shared = 0;
  std::string_view rest;
  std::string_view value;
};
RawRecord get_record(Reader& in) {
  RawRecord record;
  record.shared = in.get_varint();
  record.rest = in.get_text();
  record.value = in.get_text();
  return record;
}

constexpr std::size_t kRestartBytes = sizeof(Le<u32>);
constexpr std::size_t kRecordHeadBytesMax = 3 * 10;  // three varints

}  // namespace

// ---- building

void BlockBuilder::add(std::string_view key, std::string_view value) {
  INVARIANT(count_ == 0 || key > last_key_);
  std::size_t shared = 0;
  if (count_ % kRecordsPerRestart == 0) {
    restarts_.push_back(static_cast<u32>(out_.size()));
  } else {
    const std::size_t limit = std::min(key.size(), last_key_.size());
    while (shared < limit && key[shared] == last_key_[shared]) ++shared;
  }
  out_.put_varint(shared);
  out_.put_text(key.substr(shared));
  out_.put_text(value);
  last_key_ = key;
  ++count_;
}

std::size_t BlockBuilder::bytes() const {
  return out_.size() + (restarts_.size() + 1) * kRestartBytes;
}

std::size_t BlockBuilder::bytes_with(std::size_t record_bytes) const {
  return bytes() + kRecordHeadBytesMax + record_bytes + kRestartBytes;
}

std::vector<std::byte> BlockBuilder::finish() {
  INVARIANT(!empty());
  for (const u32 restart : restarts_) out_.put<u32>(restart);
  out_.put<u32>(static_cast<u32>(restarts_.size()));
  restarts_.clear();
  last_key_.clear();
  count_ = 0;
  return std::exchange(out_, Writer()).take();
}

// ---- reading

Result<std::shared_ptr<const TableBlock>> TableBlock::decode(Buffer plain) {
  auto block = std::make_shared<TableBlock>();
  block->plain_ = std::move(plain);
  const Bytes all = block->plain_.bytes();
  if (all.size() < kRestartBytes) return corrupt("table block: cut short");
  const u32 restart_count = struct_from<Le<u32>>(all.last(kRestartBytes));
  const Bytes before_count = all.first(all.size() - kRestartBytes);
  if (restart_count == 0 || restart_count > before_count.size() / kRestartBytes) {
    return corrupt("table block: restarts", restart_count);
  }
  block->restarts_ = before_count.last(restart_count * kRestartBytes);
  block->records_ = before_count.first(before_count.size() - block->restarts_.size());

  Reader in(block->records_);
  std::string key;
  u64 count = 0;
  for (; !in.at_end(); ++count) {
    const u64 offset = block->records_.size() - in.left();
    const RawRecord record = get_record(in);
    if (!in.ok()) return corrupt("table block: record cut short, at", offset);
    if (count % kRecordsPerRestart == 0) {
      const u64 index = count / kRecordsPerRestart;
      if (index >= restart_count || block->restart(index) != offset || record.shared != 0) {
        return corrupt("table block: misplaced restart, at", offset);
      }
    }
    if (record.shared > key.size()) return corrupt("table block: shared bytes, at", offset);
    if (count != 0 && record.rest <= std::string_view(key).substr(record.shared)) {
      return corrupt("table block: keys out of order, at", offset);
    }
    key.resize(record.shared);
    key += record.rest;
  }
  const u64 restarts_due = (count + kRecordsPerRestart - 1) / kRecordsPerRestart;
  if (restarts_due != restart_count) return corrupt("table block: restarts", restart_count);
  return block;
}

u32 TableBlock::restart(std::size_t index) const {
  return struct_from<Le<u32>>(restarts_.subspan(index * kRestartBytes));
}

std::string_view TableBlock::key_at_restart(std::size_t index) const {
  Reader in(records_.subspan(restart(index)));
  return get_record(in).rest;
}

TableBlock::Cursor TableBlock::seek(std::string_view key) const {
  // The last restart whose key is not above `key`; the first one if all are.
  std::size_t low = 0;
  std::size_t high = restarts_.size() / kRestartBytes;
  while (high - low > 1) {
    const std::size_t middle = (low + high) / 2;
    (key_at_restart(middle) <= key ? low : high) = middle;
  }
  Cursor cursor(records_.subspan(restart(low)));
  while (!cursor.at_end() && cursor.key() < key) cursor.next();
  return cursor;
}

void TableBlock::Cursor::next() {
  if (rest_.empty()) {
    at_end_ = true;
    return;
  }
  Reader in(rest_);
  const RawRecord record = get_record(in);
  INVARIANT(in.ok() && record.shared <= key_.size());  // decode() has seen every record
  key_.resize(record.shared);
  key_ += record.rest;
  value_ = record.value;
  rest_ = rest_.last(in.left());
}

}  // namespace zerofs::lsm
