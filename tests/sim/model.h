// What a database should hold: a plain model, page by page and key by key, with whole histories.
//
// A Change is what one step of the engine does. An Operation is what a client asked for: mostly one
// step, whose batch is known exactly (the position right after the step names it); some calls take
// several steps, whose batches are only known to lie in a range. After a crash the log of a term is
// cut at some batch: operations below are there whole, operations above are not there at all, and
// one of several steps that the cut falls into may be there page by page ("ambiguous").
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/db.h"
#include "tests/sim/rng.h"

namespace zerofs::sim {

using PageBytes = std::array<std::byte, kPageBytes>;

// A page that no map holds is a hole.
struct PageValue {
  ExtentKind kind = ExtentKind::hole;
  std::shared_ptr<const PageBytes> bytes;  // only for data
  bool kind_unclear = false;               // zeroes, of which kind the crash decided
  bool equals(const std::byte* other) const;
};

// The bytes of the write with this stamp; no two writes have the same.
void fill_stamped(u64 stamp, MutableBytes out);

struct WriteChange {
  u64 object, offset, bytes, stamp;
};
struct EmptyChange {  // discard, or write_zeroes when `partial`
  u64 object, offset, bytes;
  ExtentKind as;  // zero or hole
  bool partial;
};
struct TruncateChange {
  u64 object, size;
};
struct EraseChange {
  u64 object;
};
struct MetaChange {
  std::string key;
  std::optional<std::string> value;
};
using Change = std::variant<WriteChange, EmptyChange, TruncateChange, EraseChange, MetaChange>;

constexpr u64 kNever = ~u64{0};

struct Operation {
  std::vector<Change> changes;
  u64 first_seq = 0;        // the earliest batch that can hold any of it
  u64 last_seq = kNever;    // the last one; kNever while it runs or if it never ended well
  u64 done_index = kNever;  // how many operations had ended before this one did
};

class Model {
 public:
  using Pages = std::map<u64, PageValue>;

  void apply(const Change& change);
  // The same, but each page may as well still be as it was.
  void apply_maybe(const Change& change);

  PageValue page(u64 object, u64 page) const;
  const Pages& pages(u64 object) { return objects_[object]; }
  const std::map<u64, Pages>& objects() const { return objects_; }
  const std::map<std::string, std::string>& meta() const { return meta_; }

  // Pages of which several values are possible, the model's own among them.
  using Place = std::pair<u64, u64>;  // object, page
  std::map<Place, std::vector<PageValue>>& ambiguous() { return ambiguous_; }
  void adopt(Place place, PageValue value);
  // Bounds of the pages that the change touches and that exist before or after it.
  static void collect_places(const Model& model, const Change& change, std::vector<Place>& out);

 private:
  void set(u64 object, u64 page, PageValue value);
  void write(const WriteChange& change);
  void empty(const EmptyChange& change);
  void patch(u64 object, u64 offset, Bytes data);

  std::map<u64, Pages> objects_;
  std::map<std::string, std::string> meta_;
  std::map<Place, std::vector<PageValue>> ambiguous_;
};

std::string describe(const Change& change);

// How many separate steps the engine takes for it: one is exact, more are not.
u64 steps_of(const EmptyChange& change);

}  // namespace zerofs::sim
