// A guard for each operation of a client: what it will change, and since when it runs.
#pragma once

#include "tests/sim/node.h"

namespace zerofs::sim {

class Running {
 public:
  Running(Node& node, Node::Busy range) : node_(node), range_(range) {
    node_.busy.push_back(&range_);
    static u64 number = 0;
    key_ = {node_.process().now(), ++number};
    node_.running.insert(key_);
  }
  ~Running() {
    std::erase(node_.busy, &range_);
    node_.running.erase(key_);
  }
  Running(const Running&) = delete;

 private:
  Node& node_;
  Node::Busy range_;
  std::pair<Instant, u64> key_;
};

inline Node::Busy pages_of(u64 object, u64 offset, u64 bytes, bool several_steps = false) {
  return {object, offset / kPageBytes, (offset + bytes + kPageBytes - 1) / kPageBytes,
          several_steps};
}
// Changes nothing, but is an operation in progress.
constexpr Node::Busy kNothing{0, 0, 0, false};

}  // namespace zerofs::sim
