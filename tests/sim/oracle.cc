#include "tests/sim/oracle.h"

#include <algorithm>

#include "engine/format/log_object.h"
#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {
constexpr std::size_t kStatesKept = 16;
}

format::Manifest Oracle::newest_manifest() const {
  const auto& objects = world_.store().objects();
  const auto at = objects.lower_bound(format::kManifestPrefix);
  if (at == objects.end() || !at->first.starts_with(format::kManifestPrefix)) {
    world_.fail("no manifest is left");
  }
  return manifest(*format::manifest_version_of(at->first));
}

format::Manifest Oracle::manifest(u64 version) const {
  const auto at = world_.store().objects().find(format::manifest_name(version));
  if (at == world_.store().objects().end()) world_.fail("a manifest version is missing");
  Result<format::Manifest> manifest = format::decode_manifest(keys_, version, *at->second);
  if (!manifest) world_.fail(fmt::format("manifest {} cannot be decoded", version));
  return std::move(*manifest);
}

void Oracle::new_object(ObjectId id) {
  if (!ids_.insert(id.value).second) {
    world_.fail(fmt::format("object id {:x} was given out twice", id.value));
  }
}

TermHistory& Oracle::opened(Term term, Model& state) {
  const format::Manifest manifest = newest_manifest();
  for (const format::TermRecord& record : manifest.terms) {
    if (record.term < term && record.term.value > resolved_) resolve(record);
  }
  audit();
  if (term.value - 1 == resolved_) {
    state = committed_;
  } else {
    const auto before = after_.find(term.value - 1);
    if (before == after_.end()) {
      world_.fail(
          fmt::format("term {} opened although {} was taken long ago", term.value, resolved_));
    }
    state = before->second;
  }
  const auto [at, fresh] = terms_.insert({term.value, {}});
  if (!fresh && at->second.term == term) world_.fail("a term was taken twice");
  at->second.term = term;
  return at->second;
}

void Oracle::resolve(const format::TermRecord& record) {
  if (!record.end) {
    world_.fail(
        fmt::format("term {} is not sealed although a newer one serves", record.term.value));
  }
  const u64 end = *record.end;
  resolved_ = record.term.value;
  TermHistory& history = terms_[record.term.value];
  history.end = end;
  report().coverage.replayed_objects += end - std::min(end, record.replay_from);
  must_be_below(history, history.acknowledged, end, "an acknowledged flush");
  if (history.closed_well) must_be_below(history, history.done, end, "a clean shutdown");

  std::vector<Model::Place> touched;
  for (const Operation& operation : history.operations) {
    const bool whole = operation.last_seq != kNever && operation.last_seq < end;
    const bool none = operation.first_seq >= end;
    if (!whole) ++report().coverage.lost_operations;
    for (const Change& change : operation.changes) {
      Model::collect_places(committed_, change, touched);
      if (whole) {
        committed_.apply(change);
      } else if (!none) {
        committed_.apply_maybe(change);
      }
    }
  }
  suspects_.insert(touched.begin(), touched.end());
  report().coverage.ambiguous_pages += committed_.ambiguous().size();
  after_[resolved_] = committed_;
  while (after_.size() > kStatesKept) after_.erase(after_.begin());
}

void Oracle::must_be_below(const TermHistory& history, u64 done, u64 end, const char* what) {
  for (const Operation& operation : history.operations) {
    if (operation.done_index >= done || operation.last_seq < end) continue;
    world_.fail(fmt::format("term {}: {} covered batch {}, but the log was cut at {}",
                            history.term.value, what, operation.last_seq, end));
  }
}

void Oracle::flushed(TermHistory& history, u64 done, Position position) {
  ++report().coverage.flushes;
  if (history.end && position.seq_end > *history.end) {
    world_.fail(
        fmt::format("term {} acknowledged a flush up to {} after its successor had "
                    "replayed it up to {}",
                    history.term.value, position.seq_end, *history.end));
  }
  if (history.end) must_be_below(history, done, *history.end, "a late flush");
  for (; history.checked_end < position.seq_end; ++history.checked_end) {
    const std::string name = format::log_name(history.term, Seq{history.checked_end});
    const auto at = world_.store().objects().find(name);
    const bool there = at != world_.store().objects().end() &&
                       format::classify_log_slot(*at->second) == format::LogSlot::log_object;
    if (!there) {
      world_.fail(fmt::format("a flush up to {} was acknowledged, but {} is not in the store",
                              position.seq_end, name));
    }
  }
  history.acknowledged = std::max(history.acknowledged, done);
}

void Oracle::adopt(Model::Place place, const PageValue& value) {
  if (committed_.ambiguous().contains(place)) committed_.adopt(place, value);
  for (auto& [term, model] : after_) {
    if (model.ambiguous().contains(place)) model.adopt(place, value);
  }
}

void Oracle::audit() {
  const format::Manifest manifest = newest_manifest();
  const auto& objects = world_.store().objects();
  for (const format::TermRecord& record : manifest.terms) {
    const u64 end = record.end.value_or(record.replay_from);
    for (u64 seq = record.replay_from; seq < end; ++seq) {
      const std::string name = format::log_name(record.term, Seq{seq});
      const auto at = objects.find(name);
      if (at == objects.end() ||
          format::classify_log_slot(*at->second) != format::LogSlot::log_object) {
        world_.fail(name + " awaits replay, but it is no log object");
      }
    }
    if (!record.end || record.closed_cleanly) continue;
    const std::string fence = format::log_name(record.term, Seq{end});
    const auto at = objects.find(fence);
    if (at == objects.end() || format::classify_log_slot(*at->second) != format::LogSlot::fence) {
      world_.fail(fence + " should be the fence of its term");
    }
  }
  for (const auto& level : manifest.levels) {
    for (const format::TableRecord& table : level) {
      const std::string name = format::table_name(table.id);
      const auto at = objects.find(name);
      if (at == objects.end() || at->second->size() != table.object_bytes) {
        world_.fail(name + " is in the manifest, but not in the store");
      }
    }
  }
  for (std::size_t i = 1; i < manifest.levels.size(); ++i) {
    const auto& level = manifest.levels[i];
    const auto overlap = std::ranges::adjacent_find(
        level, [](const auto& a, const auto& b) { return a.last_key >= b.first_key; });
    if (overlap != level.end()) world_.fail(fmt::format("tables of level {} overlap", i));
  }
  Coverage& coverage = report().coverage;
  if (!manifest.levels.empty()) {
    coverage.tables_max = std::max<u64>(coverage.tables_max, manifest.levels.front().size());
  }
  u64 levels = 0;
  for (const auto& level : manifest.levels) levels += level.empty() ? 0 : 1;
  coverage.levels_max = std::max(coverage.levels_max, levels);
}

}  // namespace zerofs::sim
