// A bucket, or a prefix of one, as an object store.
//
// Requests come from one reactor thread as coroutines; two transport threads (one of them for log
// objects alone) run libcurl and answer through the mailbox. What is retried where: README.md.
#pragma once

#include "engine/base/sync.h"
#include "s3/config.h"
#include "s3/counters.h"

namespace zerofs::s3 {

// Is the bucket there? From any thread.
struct State {
  bool reachable = true;
  Duration failing_for{};  // since the first failure after the last success; 0 when reachable
  std::string last_error;  // for people; kept after recovery; no secrets
};

class S3Store final : public store::ObjectStore {
 public:
  // Starts the threads; talks to nobody yet. Retries wait on `runtime`, whose executor hashes
  // large bodies on its workers; completions go to `mailbox`, which belongs to the same thread.
  // Both outlive the store. Errors: invalid (an unreadable CA file, an endpoint that is no URL).
  static Result<std::unique_ptr<S3Store>> start(Config config, Runtime runtime, Mailbox& mailbox);
  // No operation may be under way: their tasks end first, as every task does.
  ~S3Store() override;

  // Errors of all operations: retry (deadline passed; the log has the reason), denied (keys,
  // permissions), invalid (no such bucket, wrong region, not an S3 server), and as the interface
  // says. Class of list is foreground, of remove bulk.
  Task<> read(std::string name, u64 offset, MutableBytes out, store::Class klass) override;
  Task<store::Tail> read_suffix(std::string name, u64 bytes_max, store::Class klass) override;
  Task<> create(std::string name, Bytes body, store::Class klass) override;
  Task<> remove(std::string name) override;
  Task<std::vector<std::string>> list(std::string prefix, std::string after,
                                      u32 count_max) override;

  // Up to 1,000 names in one request. Absent ones count as removed.
  Task<> remove_many(std::vector<std::string> names);

  // Bytes of the object. Errors: not_found.
  Task<u64> size(std::string name, store::Class klass);

  // Multipart upload, which is NOT conditional: completion overwrites, so the engine never uses it
  // for its own objects. Parts are numbered from 1 and, but for the last, at least 5 MiB.
  struct Part {
    u32 number = 0;
    std::string etag;
  };
  Task<std::string> begin_upload(std::string name, store::Class klass);
  Task<Part> upload_part(std::string name, std::string upload, u32 number, Bytes body,
                         store::Class klass);
  Task<> complete_upload(std::string name, std::string upload, std::vector<Part> parts,
                         store::Class klass);
  Task<> abort_upload(std::string name, std::string upload);

  // Any thread.
  Counters counters() const;
  State state() const;

 private:
  struct Impl;
  explicit S3Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zerofs::s3
