#include "tests/sim/node.h"

#include <algorithm>

#include "tests/sim/clients.h"
#include "tests/sim/report.h"

namespace zerofs::sim {

namespace {
constexpr u64 kPostMortemStepsMax = 2'000'000;
constexpr u32 kVerifyPagesAtOnce = 24;
constexpr PageBytes kZeroPage{};
}  // namespace

Node::Node(Site& site, u32 id, Options options)
    : site_(site),
      options_(std::move(options)),
      process_(site.world, id, site.world.rng().fork()),
      view_(site.world.store(), process_),
      gate_(process_),
      control_(process_) {
  format::Owner& owner = options_.database.owner;
  owner.hostname = fmt::format("host{}", options_.host);
  owner.role = "simulated";
  owner.pid = id;
  options_.database.takeover = options_.takeover;
  options_.database.owner_is_gone = [this](const format::Owner& other) {
    return other.hostname == options_.database.owner.hostname &&
           (other.pid == process_.id() || site_.dead_pids.contains(other.pid));
  };
}

Node::~Node() {
  INVARIANT(process_.cut);
  INVARIANT(!booting_ && gate_.count() == 0 && control_.count() == 0);
}

void Node::start() {
  ++report().coverage.lives;
  booting_ = true;
  control_.spawn(boot());
}

// ---- opening

Task<bool> Node::open() {
  for (;;) {
    Result<std::unique_ptr<Db>> opened =
        co_await as_result(Db::open(process_.runtime(), view_, site_.keys, options_.database));
    if (opened) db_ = std::move(*opened);
    if (gone()) co_return false;
    if (db_ != nullptr) {
      co_return true;
    }
    const Error error = opened.error();
    if (is_damage(error)) co_return false;
    if (site_.world.tracing()) {
      site_.world.trace(fmt::format("process {} cannot open: {}", process_.id(), error.text()));
    }
    switch (error.code()) {
      case Code::retry: break;
      case Code::busy:
      case Code::fenced: co_return false;
      case Code::corrupt:
      case Code::invalid:  // a trailer that claims another format version
        if (site_.world.store().tally().flips != 0) break;
        [[fallthrough]];
      default: site_.world.fail(fmt::format("opening failed: {}", error.text()));
    }
    co_await sleep_for(process_.runtime(), 500ms);
    if (gone() || closing_) co_return false;
  }
}

// A manifest of ours took effect. If it takes a term, nobody whose term the version before it shows
// unsealed may still be alive, unless we were told to take over.
void Node::manifest_applied(const std::string& name) {
  if (state_ != State::opening || options_.takeover || options_.damaged != nullptr) return;
  const u64 version = *format::manifest_version_of(name);
  const format::Manifest now = site_.oracle.manifest(version);
  const format::Manifest before = site_.oracle.manifest(version - 1);
  if (now.last_term == before.last_term) return;
  for (const format::TermRecord& record : before.terms) {
    if (record.end || options_.database.owner_is_gone(record.owner)) continue;
    site_.world.fail("a term was taken although its last owner may be alive");
  }
}

Task<> Node::boot() {
  const bool opened = co_await open();
  if (gone() || !opened) {
    if (!gone()) state_ = State::refused;
    booting_ = false;
    co_return {};
  }
  if (options_.damaged != nullptr) {
    live_ = *options_.damaged;
    co_await verify();
    booting_ = false;
    if (!gone()) state_ = State::serving;
    co_return {};
  }
  const Term term = db_->status().term;
  history_ = &site_.oracle.opened(term, live_);
  if (site_.world.tracing()) {
    site_.world.trace(fmt::format("process {} serves as term {}", process_.id(), term.value));
  }
  for (const ObjectId id : site_.objects) handle(id);
  co_await verify();
  booting_ = false;
  if (gone() || state_ != State::opening) co_return {};
  state_ = State::serving;
  if (options_.script) {
    clients_.push_back(std::make_unique<Client>(*this, site_.world.rng().fork()));
    gate_.spawn(clients_.back()->run_script());
    co_return {};
  }
  for (u32 i = 0; i < options_.block_clients; ++i) {
    clients_.push_back(std::make_unique<Client>(*this, site_.world.rng().fork()));
    gate_.spawn(clients_.back()->run_blocks());
  }
  if (options_.meta_client) {
    clients_.push_back(std::make_unique<Client>(*this, site_.world.rng().fork()));
    gate_.spawn(clients_.back()->run_meta());
  }
  co_return {};
}

bool Node::is_damage(const Error& error) const {
  return options_.damaged != nullptr &&
         (error.code() == Code::corrupt || error.code() == Code::invalid);
}

Object* Node::handle(ObjectId id) {
  Object*& slot = handles_[id.value];
  if (slot == nullptr) slot = db_->open_object(id);
  return slot;
}

// ---- checking what was recovered

Task<> Node::verify_range(u64 object, u64 first, u64 count) {
  for (;;) {
    std::vector<Piece> pieces;
    const Result<> read = co_await as_result(db_->read(
        *handle({object}), first * kPageBytes, static_cast<u32>(count * kPageBytes), pieces));
    if (gone()) {
      if (read) db_->unpin(pieces);
      co_return {};
    }
    if (!read) {
      if (is_damage(read.error())) co_return {};
      failed("verify", read.error());
      if (db_->fenced() || closing_) co_return {};
      co_await sleep_for(process_.runtime(), 1s);
      if (gone()) co_return {};
      continue;
    }
    std::vector<std::byte> bytes;
    for (const Piece& piece : pieces)
      bytes.insert(bytes.end(), piece.data, piece.data + piece.bytes);
    db_->unpin(pieces);
    for (u64 i = 0; i < count; ++i) {
      const std::byte* found = bytes.data() + i * kPageBytes;
      const auto maybe = live_.ambiguous().find({object, first + i});
      if (maybe != live_.ambiguous().end()) {
        const std::vector<PageValue> candidates = maybe->second;
        const auto fits = std::ranges::find_if(
            candidates, [&](const PageValue& value) { return value.equals(found); });
        if (fits != candidates.end()) {
          PageValue value = *fits;
          // Holes, zeroes and a page of zeroes read the same: which it is stays open.
          if (value.equals(kZeroPage.data())) {
            value = {ExtentKind::data, std::make_shared<const PageBytes>(kZeroPage), true};
          }
          site_.oracle.adopt({object, first + i}, value);
          live_.adopt({object, first + i}, value);
        }
      }
      check_page(object, first + i, found, "after recovery");
      ++report().coverage.pages_verified;
    }
    co_return {};
  }
}

Task<> Node::verify() {
  std::set<Model::Place> places = site_.oracle.suspects();
  for (const auto& [place, values] : live_.ambiguous()) places.insert(place);
  Rng rng = site_.world.rng().fork();
  for (const auto& [object, pages] : live_.objects()) {
    for (const auto& [page, value] : pages) {
      if (!options_.verify_all && !rng.chance(48)) continue;
      places.insert({object, page});
      if (page != 0) places.insert({object, page - 1});
      places.insert({object, page + 1});
    }
  }
  for (auto at = places.begin(); at != places.end();) {
    const auto [object, first] = *at;
    u64 count = 0;
    for (; at != places.end() && count < kVerifyPagesAtOnce &&
           *at == Model::Place{object, first + count};
         ++at) {
      ++count;
    }
    co_await verify_range(object, first, count);
    if (gone() || closing_ || db_->fenced()) co_return {};
  }
  for (;;) {
    Result<std::vector<lsm::MetaEntry>> entries = co_await as_result(db_->scan_meta(""));
    if (gone()) co_return {};
    if (!entries) {
      if (is_damage(entries.error())) co_return {};
      failed("scan at opening", entries.error());
      if (db_->fenced() || closing_) co_return {};
      co_await sleep_for(process_.runtime(), 1s);
      if (gone()) co_return {};
      continue;
    }
    std::map<std::string, std::string> found;
    for (lsm::MetaEntry& entry : *entries) found.insert({entry.key, *entry.value});
    if (found != live_.meta()) site_.world.fail("after recovery the meta keys are not the model's");
    break;
  }
  site_.oracle.suspects().clear();
  co_return {};
}

void Node::check_page(u64 object, u64 page, const std::byte* bytes, const char* what) {
  const PageValue expected = live_.page(object, page);
  if (expected.equals(bytes)) return;
  u64 head = 0;
  u64 wanted = 0;
  std::size_t at = 0;
  static constexpr PageBytes kZeroes{};
  const std::byte* should =
      expected.kind == ExtentKind::data ? expected.bytes->data() : kZeroes.data();
  while (bytes[at] == should[at]) ++at;
  at = at / 8 * 8;
  std::memcpy(&head, bytes + at, 8);
  std::memcpy(&wanted, should + at, 8);
  site_.world.fail(
      fmt::format("{}: object {:x} page {} byte {}: found {:x}, expected {:x} (term {})", what,
                  object, page, at, head, wanted, db_->status().term.value));
}

// ---- operations of clients

void Node::failed(const char* what, const Error& error) {
  if (gone()) return;
  if (site_.world.tracing()) {
    site_.world.trace(fmt::format("process {}: {} failed: {}", process_.id(), what, error.text()));
  }
  const bool flips = site_.world.store().tally().flips != 0;
  switch (error.code()) {
    case Code::cancelled:
      if (closing_) return;
      break;
    case Code::retry:
      if (!site_.calm) return;
      break;
    case Code::corrupt:
    case Code::invalid:
      if (flips) return;
      break;
    case Code::fenced:
      if (fence_explained_) return;
      fence_explained_ = true;
      if (site_.oracle.newest_manifest().last_term > history_->term) return;
      site_.world.fail("a writer stopped as fenced, but there is no newer one");
    default: break;
  }
  site_.world.fail(fmt::format("{} failed: {} ({})", what, error.text(), code_name(error.code())));
}

void Node::trace(const Operation& operation, const char* what) {
  if (!site_.world.tracing()) return;
  for (const Change& change : operation.changes) {
    site_.world.trace(fmt::format("process {} term {} batch {} {}: {}", process_.id(),
                                  history_->term.value, operation.first_seq, what,
                                  describe(change)));
  }
}

void Node::record(std::vector<Change> changes_made) {
  ++report().coverage.operations;
  ++changes;
  Operation operation{.changes = std::move(changes_made)};
  operation.first_seq = operation.last_seq = db_->position().seq_end - 1;
  operation.done_index = history_->done++;
  for (const Change& change : operation.changes) live_.apply(change);
  trace(operation, "did");
  history_->operations.push_back(std::move(operation));
}

Operation& Node::begin_record(std::vector<Change> changes_made) {
  ++report().coverage.operations;
  ++changes;
  const Position position = db_->position();
  Operation operation{.changes = std::move(changes_made)};
  // It may still enter the batch that is open now.
  operation.first_seq = position.seq_end == 0 ? 0 : position.seq_end - 1;
  trace(operation, "begins");
  return history_->operations.emplace_back(std::move(operation));
}

void Node::end_record(Operation& operation, bool ended_well) {
  ++changes;
  trace(operation, "ends");
  if (ended_well) {
    operation.last_seq = db_->position().seq_end == 0 ? 0 : db_->position().seq_end - 1;
    operation.done_index = history_->done++;
  }
}

Task<> Node::flush() {
  const u64 done = history_->done;
  const Position position = db_->position();
  const Result<> flushed = co_await as_result(db_->wait_durable(position));
  if (gone()) co_return {};
  if (!flushed) {
    failed("flush", flushed.error());
    co_return {};
  }
  site_.oracle.flushed(*history_, done, position);
  co_return {};
}

bool Node::may_start(const Busy& wanted) const {
  const auto clash = [&](const Busy& other) {
    return (other.several_steps || wanted.several_steps) && other.object == wanted.object &&
           other.first < wanted.end && wanted.first < other.end;
  };
  return std::ranges::none_of(busy, [&](const Busy* other) { return clash(*other); }) &&
         std::ranges::none_of(unclear_, clash);
}

bool Node::busy_with_nothing() const {
  return unclear_.empty() &&
         std::ranges::none_of(busy, [](const Busy* other) { return other->end != 0; });
}

// P6: what the status says stays within what it says are the limits.
void Node::check_limits() {
  const DbStatus status = db_->status();
  const u64 memory = options_.database.memory_bytes;
  if (status.cache_pages > status.cache_pages_max)
    site_.world.fail("more pages than the cache has");
  // Of the 40 %, the buffers of objects being sealed and uploaded take their part.
  const u64 batch = std::min(16 * kMiB, memory / 64);
  const u64 buffers = (options_.database.uploads_max + 2) * (batch + batch / 64);
  if (status.dirty_bytes > memory / 10 * 4 - buffers + 2 * kPageBytes) {
    site_.world.fail(fmt::format("{} dirty bytes of {} memory", status.dirty_bytes, memory));
  }
  if (status.layer_bytes > memory / 10 + 256 * kKiB) {
    site_.world.fail(fmt::format("{} bytes of layers of {} memory", status.layer_bytes, memory));
  }
  if (view_.log_creates_in_flight() > options_.database.uploads_max) {
    site_.world.fail("more uploads in flight than allowed");
  }
}

// ---- ending

void Node::begin_close(bool abruptly) {
  INVARIANT(!closing_);
  if (state_ == State::serving || state_ == State::opening) state_ = State::closing;
  if (!abruptly) {
    control_.spawn(close_gently());
    return;
  }
  closing_ = true;
  control_.spawn(close());
}

Task<> Node::close_gently() {
  co_await gate_.close();
  if (gone()) co_return {};
  closing_ = true;
  co_await close();
  co_return {};
}

Task<> Node::close() {
  const Result<> closed = co_await as_result(db_->close());
  ended_ = true;
  if (gone()) co_return {};
  if (closed) {
    history_->closed_well = true;
    ++report().coverage.clean_closes;
  } else {
    failed("close", closed.error());
  }
  state_ = State::closed;
  co_return {};
}

Task<> Node::end_post_mortem() {
  co_await as_result(db_->close());
  ended_ = true;
  co_return {};
}

void Node::crash() {
  if (process_.cut) return;
  const bool was_over = state_ == State::closed || state_ == State::refused;
  if (!was_over) ++report().coverage.crashes;
  if (booting_) ++report().coverage.crashes_opening;
  if (site_.world.tracing()) {
    site_.world.trace(fmt::format("process {} is cut off", process_.id()));
  }
  if (db_ != nullptr && history_ != nullptr && !ended_) check_limits();
  if (db_ != nullptr) report().coverage.compactions += db_->status().compactions;
  process_.cut = true;
  site_.world.store().cut_off(process_);
  u64 steps = 0;
  // A database that appears only now goes on in the background until it is abandoned.
  const auto is_new = [&] { return db_ != nullptr && !closing_; };
  const auto drain = [&] {
    while (!is_new() && process_.run_post_mortem()) {
      if (++steps > kPostMortemStepsMax) site_.world.fail("an abandoned database does not end");
    }
  };
  if (db_ != nullptr) db_->abandon();
  if (db_ != nullptr && !closing_) {
    closing_ = true;
    control_.spawn(end_post_mortem());
  }
  drain();
  // It was still opening: what came of that is abandoned in turn.
  if (db_ != nullptr && !closing_) {
    closing_ = true;
    db_->abandon();
    control_.spawn(end_post_mortem());
    drain();
  }
  const bool open_ended = db_ == nullptr || ended_;
  if (booting_ || gate_.count() != 0 || control_.count() != 0 || !open_ended) {
    site_.world.fail("an abandoned database left coroutines behind");
  }
  db_.reset();
}

}  // namespace zerofs::sim
