#include "tests/sim/clients.h"

#include <algorithm>

#include "tests/sim/report.h"
#include "tests/sim/running.h"

namespace zerofs::sim {

namespace {

constexpr u64 kNearPages = 240;
constexpr u64 kBallastPages = 400;
constexpr u64 kFarChunk = 3000;
constexpr u64 kFarPages = 40;
constexpr u64 kLastPage = kObjectBytesMax / kPageBytes - 1;
constexpr u64 kBytesMax = 64 * kKiB;

}  // namespace

Client::Range Client::some_range() {
  const std::vector<ObjectId>& objects = node_.site().objects;
  const u64 object = objects[rng_.below(std::min<u64>(objects.size(), 3))].value;
  u64 page = rng_.below(kNearPages);
  if (rng_.chance(6)) page = kFarChunk * kPagesPerChunk + rng_.below(kFarPages);
  if (rng_.chance(60)) page = kLastPage - rng_.below(4);
  u64 offset = page * kPageBytes;
  u64 bytes = rng_.between(1, 3) * kPageBytes;
  switch (rng_.below(6)) {
    case 0: bytes = rng_.between(1, 4096); break;
    case 1: bytes = rng_.between(1, kBytesMax); break;
    case 2: bytes = rng_.between(1, 16) * 512; break;
    default: break;
  }
  if (rng_.chance(3)) offset += rng_.below(kPageBytes);
  if (rng_.chance(4)) offset += rng_.below(8) * 512;
  offset = std::min(offset, kObjectBytesMax - 1);
  if (offset + bytes > kObjectBytesMax) bytes = kObjectBytesMax - offset;
  return {object, offset, bytes};
}

// ---- pages

Task<> Client::write(Range range, bool fua) {
  const Node::Busy busy = pages_of(range.object, range.offset, range.bytes);
  if (!node_.may_start(busy)) co_return {};
  const u64 stamp = node_.site().oracle.next_stamp();
  std::vector<std::byte> data(range.bytes);
  fill_stamped(stamp, data);
  {
    const Running running(node_, busy);
    Object& object = *node_.handle({range.object});
    if (!(rng_.chance(2) && node_.db().try_write(object, range.offset, data))) {
      const Result<> written = co_await as_result(node_.db().write(object, range.offset, data));
      if (node_.gone()) co_return {};
      if (!written) {
        node_.failed("write", written.error());
        co_return {};
      }
    }
    node_.record({WriteChange{range.object, range.offset, range.bytes, stamp}});
  }
  if (fua) {
    const Running running(node_, kNothing);
    co_await node_.flush();
  }
  co_return {};
}

Task<> Client::write_pages() {
  const Range range = some_range();
  const u64 first = range.offset / kPageBytes;
  const u32 count = static_cast<u32>(rng_.between(1, 6));
  if (first + count > kLastPage) co_return {};
  const Node::Busy busy = pages_of(range.object, first * kPageBytes, count * kPageBytes);
  if (!node_.may_start(busy)) co_return {};
  const Running running(node_, busy);
  std::vector<cache::PageIndex> pages;
  if (!(rng_.chance(2) && node_.db().try_take_pages(count, pages))) {
    const Result<> taken = co_await as_result(node_.db().take_pages(count, pages));
    if (node_.gone()) co_return {};
    if (!taken) {
      node_.failed("take_pages", taken.error());
      co_return {};
    }
  }
  // Some of them turn out not to be needed.
  const u32 used = rng_.chance(5) ? static_cast<u32>(rng_.below(count)) : count;
  const u64 stamp = node_.site().oracle.next_stamp();
  std::vector<std::byte> data(u64{used} * kPageBytes);
  fill_stamped(stamp, data);
  for (u32 i = 0; i < used; ++i) {
    std::memcpy(node_.db().page_data(pages[i]), data.data() + u64{i} * kPageBytes, kPageBytes);
  }
  const std::span<const cache::PageIndex> all = pages;
  node_.db().return_pages(all.subspan(used));
  if (used == 0) co_return {};
  node_.db().write_pages(*node_.handle({range.object}), first, all.first(used));
  node_.record({WriteChange{range.object, first * kPageBytes, u64{used} * kPageBytes, stamp}});
  co_return {};
}

Task<> Client::read(Range range) {
  const Running running(node_, kNothing);
  const u64 first = range.offset / kPageBytes;
  const u64 end = (range.offset + range.bytes + kPageBytes - 1) / kPageBytes;
  Object& object = *node_.handle({range.object});
  std::vector<Piece> pieces;
  const u64 changes_before = node_.changes;
  if (!node_.db().try_read(object, range.offset, static_cast<u32>(range.bytes), pieces)) {
    ++report().coverage.cold_reads;
    const Result<> read = co_await as_result(
        node_.db().read(object, range.offset, static_cast<u32>(range.bytes), pieces));
    if (node_.gone()) {
      if (read) node_.db().unpin(pieces);
      co_return {};
    }
    if (!read) {
      node_.failed("read", read.error());
      co_return {};
    }
  }
  std::vector<std::byte> bytes;
  for (const Piece& piece : pieces) bytes.insert(bytes.end(), piece.data, piece.data + piece.bytes);
  if (bytes.size() != range.bytes) node_.site().world.fail("a read returned another length");
  // A read over a window's edge sees two moments; an operation of several steps is in between.
  const bool one_moment = range.offset / kMiB == (range.offset + range.bytes - 1) / kMiB;
  const bool clear = node_.may_start({range.object, first, end, false});
  if (clear && (one_moment || changes_before == node_.changes)) {
    std::vector<std::byte> expected((end - first) * kPageBytes);
    for (u64 page = first; page < end; ++page) {
      const PageValue value = node_.live().page(range.object, page);
      if (value.kind == ExtentKind::data) {
        std::memcpy(expected.data() + (page - first) * kPageBytes, value.bytes->data(), kPageBytes);
      }
    }
    // Only the part that was read counts: the rest of the first and last page is filled up.
    std::memcpy(expected.data() + range.offset % kPageBytes, bytes.data(), bytes.size());
    for (u64 page = first; page < end; ++page) {
      node_.check_page(range.object, page, expected.data() + (page - first) * kPageBytes, "read");
    }
  }
  if (rng_.chance(8)) {
    // What a reply refers to stays as it is, whatever is written meanwhile.
    co_await sleep_for(node_.process().runtime(), rng_.latency(30ms));
    std::size_t at = 0;
    for (const Piece& piece : pieces) {
      if (std::memcmp(piece.data, bytes.data() + at, piece.bytes) != 0) {
        node_.site().world.fail("pinned bytes changed");
      }
      at += piece.bytes;
    }
  }
  node_.db().unpin(pieces);
  co_return {};
}

Task<> Client::empty_range(EmptyChange change) {
  const u64 steps = steps_of(change);
  const Node::Busy busy = pages_of(change.object, change.offset, change.bytes, steps > 1);
  if (!node_.may_start(busy)) co_return {};
  const Running running(node_, busy);
  Object& object = *node_.handle({change.object});
  const bool exact = steps <= 1;
  Operation* several = exact ? nullptr : &node_.begin_record({change});
  Db& db = node_.db();
  const Db::ZeroAs as = change.as == ExtentKind::zero ? Db::ZeroAs::zero : Db::ZeroAs::hole;
  const Result<> done =
      co_await as_result(change.partial ? db.write_zeroes(object, change.offset, change.bytes, as)
                                        : db.discard(object, change.offset, change.bytes));
  if (node_.gone()) co_return {};
  if (!done) {
    node_.failed("discard", done.error());
    // Some of it may have happened: from here on nobody may rely on this range. It stays busy for
    // the rest of this life, which ends soon: it was fenced, or it is closing.
    if (!exact) {
      node_.keep_busy(busy);
      node_.end_record(*several, false);
    }
    co_return {};
  }
  if (exact) {
    if (steps == 1) node_.record({change});
  } else {
    node_.live().apply(change);
    node_.end_record(*several, true);
  }
  co_return {};
}

Task<> Client::empty() {
  const Range range = some_range();
  EmptyChange change{range.object, range.offset, range.bytes, ExtentKind::hole, rng_.chance(2)};
  if (change.partial && rng_.chance(2)) change.as = ExtentKind::zero;
  switch (rng_.below(5)) {
    case 0:  // whole chunks
      change.offset = rng_.below(6) * kChunkBytes;
      change.bytes = rng_.between(1, 3) * kChunkBytes;
      break;
    case 1:  // more than the cache visits one by one
      if (change.as == ExtentKind::zero) break;
      change.offset = rng_.below(30) * kChunkBytes;
      change.bytes = (rng_.between(1020, 4000)) * kChunkBytes;
      if (rng_.chance(2)) change.bytes += rng_.below(kChunkBytes);
      if (rng_.chance(3)) change.bytes = kObjectBytesMax - change.offset;
      break;
    default: break;
  }
  co_await empty_range(change);
  co_return {};
}

// More range erases than an object remembers, so that nodes must ask the read view.
Task<> Client::erase_storm() {
  ++report().coverage.erases_over_64;
  const std::vector<ObjectId>& objects = node_.site().objects;
  const u64 object = objects[rng_.below(std::min<u64>(objects.size(), 3))].value;
  const u64 hits = rng_.below(80);
  for (u64 i = 0; i < 80 && !node_.stopping(); ++i) {
    const u64 first = i == hits ? rng_.below(5) : 10 + rng_.below(2000);
    const EmptyChange change{object, first * kChunkBytes, (1100 + rng_.below(500)) * kChunkBytes,
                             ExtentKind::hole, false};
    co_await empty_range(change);
  }
  co_return {};
}

// Reads more than the cache holds, from an object that only grows, then looks again at what was
// written lately: it must come back as it is, wherever it is by now.
Task<> Client::sweep() {
  ++report().coverage.sweeps;
  const u64 ballast = node_.site().objects[3].value;
  const u64 there = node_.live().pages(ballast).size();
  if (there < kBallastPages) {
    for (u64 i = 0; i < 6 && !node_.stopping(); ++i) {
      co_await write({ballast, (there + i * 16) * kPageBytes, 16 * kPageBytes}, false);
    }
    co_return {};
  }
  const Range lately = some_range();
  for (u64 i = 0; i < 4; ++i) {
    // The same page in several batches, one after the other in flight: others fill them up.
    for (u64 batch = rng_.between(1, 3); batch != 0; --batch) {
      co_await write({lately.object, lately.offset, std::min(lately.bytes, u64{kPageBytes})},
                     false);
      if (node_.stopping() || node_.fenced()) co_return {};
      co_await write({ballast, rng_.below(kBallastPages - 16) * kPageBytes, 12 * kPageBytes},
                     false);
      if (node_.stopping() || node_.fenced()) co_return {};
    }
    for (u64 page = 0; page < kBallastPages; page += 16) {
      if (rng_.chance(3)) continue;
      co_await read({ballast, page * kPageBytes, 16 * kPageBytes});
      if (node_.stopping() || node_.fenced()) co_return {};
    }
    co_await read(lately);
    if (node_.stopping() || node_.fenced()) co_return {};
  }
  co_return {};
}

Task<> Client::prefetch() {
  const Range range = some_range();
  const Running running(node_, kNothing);
  const Result<> done = co_await as_result(
      node_.db().prefetch(*node_.handle({range.object}), range.offset, range.bytes));
  if (node_.gone()) co_return {};
  if (!done) node_.failed("prefetch", done.error());
  co_return {};
}

Task<> Client::extents() {
  Range range = some_range();
  if (rng_.chance(2)) range.bytes = std::min(range.bytes * 64, kObjectBytesMax - range.offset);
  const Running running(node_, kNothing);
  const u64 before = node_.changes;
  const u32 count_max = static_cast<u32>(rng_.between(1, 20));
  const Result<std::vector<Extent>> found = co_await as_result(
      node_.db().extents(*node_.handle({range.object}), range.offset, range.bytes, count_max));
  if (node_.gone()) co_return {};
  if (!found) {
    node_.failed("extents", found.error());
    co_return {};
  }
  if (found->empty() || found->size() > count_max) node_.site().world.fail("extents: count");
  if (before != node_.changes || !node_.busy_with_nothing()) co_return {};
  u64 at = range.offset;
  for (const Extent& extent : *found) {
    const u64 end = at + extent.bytes;
    for (u64 page = at / kPageBytes; page * kPageBytes < end && page < at / kPageBytes + 256;
         ++page) {
      const PageValue known = node_.live().page(range.object, page);
      if (!known.kind_unclear && known.kind != extent.kind) {
        node_.site().world.fail(fmt::format("extents: object {:x} page {} is said to be of kind {}",
                                            range.object, page, static_cast<u32>(extent.kind)));
      }
    }
    at = end;
  }
  if (at > range.offset + range.bytes) node_.site().world.fail("extents: more than was asked");
  co_return {};
}

// ---- their lives

Task<> Client::block_operation() {
  if (rng_.permille(node_.options().sweeps_permille)) {
    co_await sweep();
    co_return {};
  }
  u64 dice = rng_.below(1000);
  // While the store is away flushes wait; most clients go on writing, up to the memory limit.
  if (node_.site().world.store().out && dice >= 720 && dice < 890 && !rng_.chance(8)) dice = 0;
  if (dice < 330) {
    co_await write(some_range(), false);
  } else if (dice < 390) {
    co_await write_pages();
  } else if (dice < 630) {
    co_await read(some_range());
  } else if (dice < 720) {
    co_await empty();
  } else if (dice < 850) {
    const Running running(node_, kNothing);
    co_await node_.flush();
  } else if (dice < 890) {
    co_await write(some_range(), true);
  } else if (dice < 920) {
    co_await prefetch();
  } else if (dice < 955) {
    co_await extents();
  } else if (dice < 980) {
    const Range range = some_range();
    co_await resize(range.object,
                    rng_.chance(2) ? range.offset : range.offset / kPageBytes * kPageBytes);
  } else if (dice < 996) {
    co_await temporary_object();
  } else {
    co_await erase_storm();
  }
  co_return {};
}

Task<> Client::run_blocks() {
  while (!node_.stopping() && !node_.fenced()) {
    co_await block_operation();
    if (node_.stopping()) break;
    co_await sleep_for(node_.process().runtime(), rng_.latency(node_.options().think));
  }
  co_return {};
}

Task<> Client::run_meta() {
  while (!node_.stopping() && !node_.fenced()) {
    const u64 dice = rng_.below(10);
    if (dice < 4) {
      co_await put_meta();
    } else if (dice < 7) {
      co_await get_meta();
    } else if (dice < 8) {
      co_await scan_meta();
    } else {
      const Running running(node_, kNothing);
      co_await node_.flush();
    }
    if (node_.stopping()) break;
    co_await sleep_for(node_.process().runtime(), rng_.latency(node_.options().think));
  }
  co_return {};
}

Task<> Client::run_script() {
  const u64 a = node_.site().objects[0].value;
  const u64 b = node_.site().objects[1].value;
  for (u64 round = 0; round < 2 && !node_.stopping() && !node_.fenced(); ++round) {
    const u64 shift = round * 3 * kPageBytes;
    co_await write({a, shift, 3 * kPageBytes}, false);
    co_await write({a, 40 * kPageBytes + 100, 5000}, false);
    co_await put_meta();
    co_await node_.flush();
    co_await write({b, 2 * kPageBytes, 9 * kPageBytes}, false);
    co_await empty_range({a, kPageBytes, 2 * kPageBytes, ExtentKind::hole, false});
    co_await write({a, kPageBytes + shift, kPageBytes}, true);
    co_await empty_range({b, 4 * kPageBytes, 2 * kPageBytes, ExtentKind::zero, true});
    co_await write({a, 2000 * kChunkBytes, kPageBytes}, false);
    co_await node_.flush();
    co_await empty_range({a, kChunkBytes, 3000 * kChunkBytes, ExtentKind::hole, false});
    co_await write({a, 33 * kPageBytes, kPageBytes}, false);
    co_await resize(b, 8 * kPageBytes + 77);
    co_await node_.flush();
    co_await temporary_object();
    co_await read({a, 0, 16 * kPageBytes});
    co_await put_meta();
  }
  node_.script_ended = true;
  co_return {};
}

}  // namespace zerofs::sim
