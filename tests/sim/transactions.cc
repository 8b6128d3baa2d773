// The clients' transactions and keys.
#include "tests/sim/clients.h"
#include "tests/sim/report.h"
#include "tests/sim/running.h"

namespace zerofs::sim {

Task<> Client::commit(Transaction transaction, std::vector<Change> changes, const char* what) {
  const Result<> done = co_await as_result(node_.db().commit(std::move(transaction)));
  if (node_.gone()) co_return {};
  if (!done) {
    node_.failed(what, done.error());
    co_return {};
  }
  ++report().coverage.transactions;
  node_.record(std::move(changes));
  co_return {};
}

Task<> Client::resize(u64 object, u64 size) {
  const Node::Busy busy{object, size / kPageBytes, kNever, false};
  if (!node_.may_start(busy)) co_return {};
  const Running running(node_, busy);
  Transaction transaction;
  transaction.truncates.push_back({node_.handle({object}), size});
  const std::string key = fmt::format("size/{:x}", object);
  transaction.meta.push_back({key, std::to_string(size)});
  std::vector<Change> changes{TruncateChange{object, size}, MetaChange{key, std::to_string(size)}};
  co_await commit(std::move(transaction), std::move(changes), "resize");
  co_return {};
}

// Born with a name, written, deleted with its name.
Task<> Client::temporary_object() {
  const ObjectId id = node_.db().new_object_id();
  node_.site().oracle.new_object(id);
  const std::string key = fmt::format("temporary/{:x}", id.value);
  {
    const Running running(node_, kNothing);
    Transaction birth;
    birth.meta.push_back({key, "here"});
    co_await commit(std::move(birth), {MetaChange{key, "here"}}, "birth");
  }
  if (node_.stopping() || node_.fenced()) co_return {};
  for (u64 i = rng_.below(4); i != 0; --i) {
    const u64 offset = rng_.below(200) * kPageBytes;
    const u64 stamp = node_.site().oracle.next_stamp();
    std::vector<std::byte> data(rng_.between(1, 2) * kPageBytes);
    fill_stamped(stamp, data);
    const Running running(node_, kNothing);
    const Result<> written = co_await as_result(node_.db().write(*node_.handle(id), offset, data));
    if (node_.gone()) co_return {};
    if (!written) {
      node_.failed("write", written.error());
      co_return {};
    }
    node_.record({WriteChange{id.value, offset, data.size(), stamp}});
  }
  co_await sleep_for(node_.process().runtime(), rng_.latency(100ms));
  if (node_.stopping() || node_.fenced()) co_return {};
  const Running running(node_, kNothing);
  Transaction death;
  death.meta.push_back({key, {}});
  death.deleted_objects.push_back(id);
  co_await commit(std::move(death), {MetaChange{key, {}}, EraseChange{id.value}}, "death");
  co_return {};
}

std::string Client::some_key() {
  return fmt::format("k{}/{:02}", rng_.below(3), rng_.below(12));
}

std::string Client::some_value() {
  const u64 stamp = node_.site().oracle.next_stamp();
  std::string value = std::to_string(stamp);
  if (rng_.chance(4)) value.append(rng_.below(300), 'v');
  if (rng_.chance(50)) value.append(rng_.below(8000), 'w');
  return value;
}

Task<> Client::put_meta() {
  const Running running(node_, kNothing);
  Transaction transaction;
  std::vector<Change> changes;
  std::set<std::string> keys;
  for (u64 i = rng_.between(1, 6); i != 0; --i) keys.insert(some_key());
  for (const std::string& key : keys) {
    std::optional<std::string> value;
    if (!rng_.chance(4)) value = some_value();
    changes.push_back(MetaChange{key, value});
    transaction.meta.push_back({key, std::move(value)});
  }
  co_await commit(std::move(transaction), std::move(changes), "transaction");
  co_return {};
}

Task<> Client::get_meta() {
  const std::string key = some_key();
  const Running running(node_, kNothing);
  const auto known = [&]() -> std::optional<std::string> {
    const auto at = node_.live().meta().find(key);
    if (at == node_.live().meta().end()) return {};
    return at->second;
  };
  // The answer is of the moment of the call.
  const std::optional<std::string> expected = known();
  const Result<std::optional<std::string>> found = co_await as_result(node_.db().get_meta(key));
  if (node_.gone()) co_return {};
  if (!found) {
    node_.failed("get_meta", found.error());
    co_return {};
  }
  if (*found != expected) node_.site().world.fail(fmt::format("get_meta {}: wrong value", key));
  co_return {};
}

Task<> Client::scan_meta() {
  const std::string prefix = fmt::format("k{}/", rng_.below(3));
  const Running running(node_, kNothing);
  std::vector<lsm::MetaEntry> expected;
  for (auto at = node_.live().meta().lower_bound(prefix);
       at != node_.live().meta().end() && at->first.starts_with(prefix); ++at) {
    expected.push_back({at->first, at->second});
  }
  const Result<std::vector<lsm::MetaEntry>> found =
      co_await as_result(node_.db().scan_meta(prefix));
  if (node_.gone()) co_return {};
  if (!found) {
    node_.failed("scan_meta", found.error());
    co_return {};
  }
  if (*found != expected) node_.site().world.fail("scan_meta: other entries than the model's");
  co_return {};
}

}  // namespace zerofs::sim
