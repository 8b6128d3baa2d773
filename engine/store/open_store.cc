#include "engine/store/open_store.h"

#include <filesystem>

#include "engine/store/memory_store.h"

namespace zerofs::store {

Result<StoreUrl> parse_store_url(std::string_view text) {
  StoreUrl url;
  if (text.starts_with("file://")) {
    const std::string_view path = text.substr(7);
    if (path.empty() || path[0] != '/') {
      return invalid("a file store needs an absolute path: file:///var/lib/zerofs");
    }
    url.scheme = StoreUrl::Scheme::file;
    url.path = std::filesystem::path(path).lexically_normal().string();
    while (url.path.size() > 1 && url.path.back() == '/') url.path.pop_back();
    url.canonical = "file://" + url.path;
    return url;
  }
  if (text.starts_with("memory://")) {
    url.scheme = StoreUrl::Scheme::memory;
    url.canonical = std::string(text);
    return url;
  }
  return invalid("a store URL is s3://bucket/prefix, file:///absolute/path or memory://NAME");
}

Result<std::unique_ptr<ObjectStore>> open_store(const StoreUrl& url, OpenOptions options,
                                                WorkerPool& threads, Mailbox& mailbox,
                                                Executor& executor) {
  if (url.scheme == StoreUrl::Scheme::memory) return std::make_unique<MemoryStore>(executor);
  return FileStore::open(url.path, options.if_missing, threads, mailbox);
}

}  // namespace zerofs::store
