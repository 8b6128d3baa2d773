#include "engine/lsm/table_merge.h"

#include <algorithm>
#include <bit>

#include "engine/lsm/table_key.h"

namespace zerofs::lsm {

TableMerge::TableMerge(std::vector<Input> inputs, const TableOptions& options, bool is_bottom)
    : is_bottom_(is_bottom), out_(options) {
  for (Input& input : inputs) {
    if (!is_bottom) {
      erased_.insert(erased_.end(), input.index->erased.begin(), input.index->erased.end());
    }
    const std::vector<ErasedRange>& erased = input.index->erased;
    streams_.push_back({.input = std::move(input), .erased = ErasedCursor(erased)});
  }
  std::ranges::sort(erased_, range_before);
  join_ranges(erased_);
  look_who_begins();
}

const TableMerge::Stream* TableMerge::smallest() const {
  const Stream* out = nullptr;
  for (const Stream& stream : streams_) {
    if (!stream.cursor) continue;
    if (out == nullptr || stream.cursor->key() < out->cursor->key()) out = &stream;
  }
  return out;
}

void TableMerge::look_who_begins() {
  next_to_begin_.reset();
  starved_ = false;
  for (const Stream& stream : streams_) {
    if (stream.begun) {
      starved_ |= !stream.ended && !stream.cursor;
    } else if (!next_to_begin_ || stream.input.first_key < *next_to_begin_) {
      next_to_begin_ = stream.input.first_key;
    }
  }
}

// Those that have begun and ran out, and those that begin now: their first key is not above what
// comes next.
std::vector<std::size_t> TableMerge::hungry() const {
  std::vector<std::size_t> out;
  const Stream* const next = smallest();
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    const Stream& stream = streams_[i];
    if (stream.ended || stream.cursor) continue;
    const std::string& first = stream.input.first_key;
    const bool begins = next != nullptr ? first <= next->cursor->key() : first == next_to_begin_;
    if (stream.begun || begins) out.push_back(i);
  }
  return out;
}

void TableMerge::begin_block(Stream& stream) {
  if (stream.next_block == stream.blocks.size()) {
    stream.cursor.reset();
    stream.blocks.clear();
    stream.next_block = 0;
    return;
  }
  stream.cursor = stream.blocks[stream.next_block++]->begin();
}

void TableMerge::feed(std::size_t input, Blocks blocks) {
  Stream& stream = streams_[input];
  INVARIANT(!stream.ended && !stream.cursor);
  stream.begun = true;
  stream.ended = blocks.empty();
  stream.blocks = std::move(blocks);
  stream.next_block = 0;
  begin_block(stream);
  look_who_begins();
}

void TableMerge::next(Stream& stream) {
  stream.cursor->next();
  if (!stream.cursor->at_end()) return;
  begin_block(stream);
  starved_ |= !stream.cursor.has_value();
}

Result<> TableMerge::advance() {
  std::string key;
  while (!starved_) {
    const Stream* const next = smallest();
    if (next == nullptr) {
      if (!next_to_begin_) finish();
      return {};
    }
    key = next->cursor->key();
    if (next_to_begin_ && *next_to_begin_ <= key) return {};
    if (const std::optional<EntryView> at = parse_data_key(key)) {
      TRY_VOID(merge_chunk(key, *at));
    } else if (parse_meta_key(key)) {
      TRY_VOID(merge_meta(key));
    } else {
      return corrupt("table: a key of no known family");
    }
  }
  return {};
}

Result<> TableMerge::merge_chunk(std::string_view key, const EntryView& at) {
  runs_.clear();
  u32 need = ~u32{0};
  for (Stream& stream : streams_) {
    if (stream.cursor && stream.cursor->key() == key) {
      TRY(need, find_in_runs(stream.cursor->value(), stream.input.index->segments, need, runs_));
      next(stream);
    }
    if (stream.input.hides && stream.erased.covers(at.object, at.chunk)) need = 0;
  }
  if (is_bottom_) {
    std::erase_if(runs_, [](const Found& run) { return run.kind == RunKind::hole; });
  }
  // Parts of one source that came from several inputs become one run again.
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    for (std::size_t j = i + 1; j < runs_.size();) {
      const bool same = runs_[i].kind == runs_[j].kind && runs_[i].segment == runs_[j].segment &&
                        runs_[i].frame == runs_[j].frame;
      if (!same) {
        ++j;
        continue;
      }
      runs_[i].mask |= runs_[j].mask;
      runs_.erase(runs_.begin() + static_cast<std::ptrdiff_t>(j));
    }
  }
  if (runs_.empty()) return {};
  const auto begun = [&](const ErasedRange& range) {
    return std::tie(range.object, range.first) <= std::tie(at.object, at.chunk);
  };
  for (; next_erased_ < erased_.size() && begun(erased_[next_erased_]); ++next_erased_) {
    out_.add_erased(erased_[next_erased_]);
  }
  out_.add_runs(at.object, at.chunk, runs_);
  entries_ += runs_.size();
  return {};
}

Result<> TableMerge::merge_meta(std::string_view key) {
  for (; next_erased_ < erased_.size(); ++next_erased_) out_.add_erased(erased_[next_erased_]);
  bool decided = false;
  for (Stream& stream : streams_) {
    if (!stream.cursor || stream.cursor->key() != key) continue;
    if (!decided) {
      decided = true;
      TRY(std::optional<std::string> value, decode_meta_value(stream.cursor->value()));
      if (value || !is_bottom_) {
        out_.add_meta({std::string(*parse_meta_key(key)), std::move(value)});
        ++entries_;
      }
    }
    next(stream);
  }
  return {};
}

void TableMerge::finish() {
  for (; next_erased_ < erased_.size(); ++next_erased_) out_.add_erased(erased_[next_erased_]);
  out_.end();
  at_end_ = true;
}

}  // namespace zerofs::lsm
