#include "engine/store/memory_store.h"

#include <algorithm>

#include "engine/store/names.h"

namespace zerofs::store {

Task<> MemoryStore::read(std::string name, u64 offset, MutableBytes out, Class) {
  INVARIANT(is_valid_name(name));
  co_await Turn{executor_};
  ++counters_.reads;
  const auto at = objects_.find(name);
  if (at == objects_.end()) co_return fail(Code::not_found, "no such object");
  const Buffer& body = at->second;
  if (offset > body.size() || out.size() > body.size() - offset) {
    co_return corrupt("the object is shorter than it must be", body.size());
  }
  counters_.read_bytes += out.size();
  if (!out.empty()) std::memcpy(out.data(), body.data() + offset, out.size());
  co_return {};
}

Task<Tail> MemoryStore::read_suffix(std::string name, u64 bytes_max, Class) {
  INVARIANT(is_valid_name(name));
  co_await Turn{executor_};
  ++counters_.reads;
  const auto at = objects_.find(name);
  if (at == objects_.end()) co_return fail(Code::not_found, "no such object");
  const Bytes body = at->second;
  const u64 bytes = std::min<u64>(bytes_max, body.size());
  counters_.read_bytes += bytes;
  co_return Tail{body.size(), Buffer::copy_of(body.last(bytes))};
}

Task<> MemoryStore::create(std::string name, Bytes body, Class) {
  INVARIANT(is_valid_name(name));
  co_await Turn{executor_};
  ++counters_.creates;
  if (objects_.contains(name)) co_return fail(Code::precondition, "the object exists");
  counters_.created_bytes += body.size();
  objects_.emplace(std::move(name), Buffer::copy_of(body));
  co_return {};
}

Task<> MemoryStore::remove(std::string name) {
  INVARIANT(is_valid_name(name));
  co_await Turn{executor_};
  ++counters_.removes;
  objects_.erase(name);
  co_return {};
}

Task<std::vector<std::string>> MemoryStore::list(std::string prefix, std::string after,
                                                 u32 count_max) {
  co_await Turn{executor_};
  ++counters_.lists;
  std::vector<std::string> names;
  for (auto at = objects_.lower_bound(prefix);
       at != objects_.end() && at->first.starts_with(prefix) && names.size() < count_max; ++at) {
    if (at->first > after) names.push_back(at->first);
  }
  co_return std::move(names);
}

}  // namespace zerofs::store
