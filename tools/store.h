// The store of a command: file:// and memory:// are the engine's own, s3:// is a library beside it.
#pragma once

#include "engine/base/reactor.h"
#include "engine/store/open_store.h"
#include "s3/s3_store.h"
#include "tools/options.h"

namespace zerofs::tools {

// One spelling for one place: what sockets and probes are filed under; for s3:// it includes the
// endpoint. Errors: invalid (the text says what a store URL is).
Result<std::string> canonical_store(const DatabaseOptions& options);

// What the probe of a store is filed under: of a canonical spelling, in characters of names.
std::string probe_place(const std::string& canonical);

struct OpenStore {
  std::unique_ptr<store::ObjectStore> store;
  s3::S3Store* s3 = nullptr;  // the same one, when it is S3
  std::string canonical;
};
// `threads` runs the file system's calls. Errors: as the stores say; not_found for a directory.
Result<OpenStore> open_store(const DatabaseOptions& options, store::FileStore::IfMissing if_missing,
                             Runtime runtime, WorkerPool& threads, Reactor& reactor);

}  // namespace zerofs::tools
