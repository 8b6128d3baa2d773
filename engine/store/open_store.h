// The stores of the engine's own by URL: file:///absolute/path, memory://NAME.
#pragma once

#include "engine/store/file_store.h"

namespace zerofs::store {

struct StoreUrl {
  enum class Scheme : u8 { file, memory };
  Scheme scheme = Scheme::file;
  std::string path;       // file: absolute
  std::string canonical;  // the same for every spelling of one store
};

// Errors: invalid (the text says what is supported).
Result<StoreUrl> parse_store_url(std::string_view text);

struct OpenOptions {
  FileStore::IfMissing if_missing = FileStore::IfMissing::fail;
};
Result<std::unique_ptr<ObjectStore>> open_store(const StoreUrl& url, OpenOptions options,
                                                WorkerPool& threads, Mailbox& mailbox,
                                                Executor& executor);

}  // namespace zerofs::store
