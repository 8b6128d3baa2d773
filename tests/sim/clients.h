// What runs against a database: clients of block devices and of the key-value face. Each does one
// thing after the other, at random; several share the same objects. Whatever a call returns is
// compared with the model at that very moment (nothing runs between the end of a call and here).
#pragma once

#include "tests/sim/node.h"

namespace zerofs::sim {

class Client {
 public:
  Client(Node& node, Rng rng) : node_(node), rng_(rng) {}
  Task<> run_blocks();
  Task<> run_meta();
  // The same operations each time, one after the other (enumerate.h); what order they take effect
  // in and when the batches are cut is left to the scheduler.
  Task<> run_script();

 private:
  struct Range {
    u64 object, offset, bytes;
  };
  Range some_range();
  Task<> block_operation();
  Task<> write(Range range, bool fua);
  Task<> write_pages();
  Task<> read(Range range);
  Task<> empty();
  Task<> empty_range(EmptyChange change);
  Task<> erase_storm();
  Task<> sweep();
  Task<> prefetch();
  Task<> extents();
  Task<> resize(u64 object, u64 size);
  Task<> temporary_object();
  Task<> put_meta();
  Task<> get_meta();
  Task<> scan_meta();
  Task<> commit(Transaction transaction, std::vector<Change> changes, const char* what);
  std::string some_key();
  std::string some_value();

  Node& node_;
  Rng rng_;
};

}  // namespace zerofs::sim
