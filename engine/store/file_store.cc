#include "engine/store/file_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/store/names.h"

namespace zerofs::store {

namespace {

constexpr u64 kDirectBytesMin = 256 * kKiB;
constexpr u64 kDirectAlignment = 4096;
constexpr std::size_t kDirectoriesMax = 256;

std::unexpected<Error> from_errno(const char* what, const std::string& name, int error) {
  Code code = Code::retry;
  switch (error) {
    case ENOSPC:
    case EDQUOT: code = Code::no_space; break;
    case EACCES:
    case EPERM:
    case EROFS: code = Code::denied; break;
    case ENOENT: return fail(Code::not_found, "no such object");
    case EEXIST: return fail(Code::precondition, "the object exists");
    default: break;
  }
  spdlog::debug("file store: {} {}: {}", what, name, std::strerror(error));
  return fail(code, what, static_cast<u64>(error));
}

std::pair<std::string, std::string> split(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  if (slash == std::string::npos) return {".", name};
  return {name.substr(0, slash), name.substr(slash + 1)};
}

bool write_fully(int fd, Bytes body) {
  while (!body.empty()) {
    const ssize_t count = write(fd, body.data(), std::min<std::size_t>(body.size(), 1u << 30));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    body = body.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

// Large aligned bodies go around the page cache, but for the unaligned rest.
bool write_body(int fd, Bytes body) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(body.data()) % kDirectAlignment == 0;
  if (body.size() < kDirectBytesMin || !aligned) return write_fully(fd, body);
  const int flags = fcntl(fd, F_GETFL);
  if (fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return write_fully(fd, body);
  const u64 direct_bytes = body.size() / kDirectAlignment * kDirectAlignment;
  const bool written = write_fully(fd, body.first(direct_bytes));
  if (!written && errno != EINVAL) return false;
  if (fcntl(fd, F_SETFL, flags) != 0) return false;
  if (!written && lseek(fd, 0, SEEK_SET) != 0) return false;  // refused: all of it buffered
  return write_fully(fd, written ? body.subspan(direct_bytes) : body);
}

}  // namespace

class FileStore::Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Runs a function on a store thread and brings its result back to the reactor.
template <class Function>
class FileStore::Work final : Job {
 public:
  using Value = std::invoke_result_t<Function&>;
  Work(FileStore& store, Priority priority, Function function)
      : store_(store), priority_(priority), function_(std::move(function)) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    store_.threads_.submit(*this, priority_, store_.mailbox_);
  }
  Value await_resume() { return std::move(*value_); }

 private:
  void run() override { value_.emplace(function_()); }
  void finish() override { handle_.resume(); }
  FileStore& store_;
  Priority priority_;
  Function function_;
  std::coroutine_handle<> handle_;
  std::optional<Value> value_;
};

template <class Function>
FileStore::Work<Function> FileStore::work(Class klass, Function function) {
  return {*this, klass == Class::bulk ? Priority::bulk : Priority::urgent, std::move(function)};
}

Result<std::unique_ptr<FileStore>> FileStore::open(std::string path, IfMissing if_missing,
                                                   WorkerPool& threads, Mailbox& mailbox) {
  if (if_missing == IfMissing::create && mkdir(path.c_str(), 0700) == 0) {
    // The new entry must survive as well as what is put into it.
    const auto [parent, base] = split(path);
    const Fd up(::open(parent.empty() ? "/" : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (up.get() >= 0 && fsync(up.get()) != 0) return from_errno("sync directory", path, errno);
  }
  auto root = std::make_shared<const Fd>(
      ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root->get() < 0) {
    if (errno == ENOENT) return fail(Code::not_found, "the store's directory does not exist");
    if (errno == ENOTDIR) return invalid("the store's path is not a directory");
    return from_errno("open directory", path, errno);
  }
  return std::unique_ptr<FileStore>(new FileStore(std::move(root), threads, mailbox));
}

FileStore::~FileStore() = default;

// A descriptor of the directory, kept open. Creating one makes its entry durable first.
Result<FileStore::Directory> FileStore::directory(const std::string& path, IfMissing if_missing) {
  if (path == ".") return root_;
  const std::scoped_lock lock(directories_mutex_);
  const auto known = directories_.find(path);
  if (known != directories_.end()) return known->second;
  const auto open_at = [&](const std::string& name) {
    return std::make_shared<const Fd>(
        openat(root_->get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  };
  Directory found = open_at(path);
  if (found->get() < 0 && errno == ENOENT && if_missing == IfMissing::create) {
    for (std::size_t at = path.find('/');; at = path.find('/', at + 1)) {
      const std::string part = path.substr(0, at);
      if (mkdirat(root_->get(), part.c_str(), 0700) != 0 && errno != EEXIST) {
        return from_errno("make directory", path, errno);
      }
      const Directory up = open_at(split(part).first);
      if (up->get() < 0 || fsync(up->get()) != 0) return from_errno("sync directory", part, errno);
      if (at == std::string::npos) break;
    }
    found = open_at(path);
  }
  if (found->get() < 0) return from_errno("open directory", path, errno);
  // Terms' directories accumulate; whoever uses one now keeps it open.
  if (directories_.size() >= kDirectoriesMax) directories_.clear();
  directories_.emplace(path, found);
  return found;
}

// ---- create

Result<> FileStore::publish_unnamed(int directory, const char* base, Bytes body, bool& supported) {
  const Fd fd(openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (fd.get() < 0) {
    supported = errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT;
    return from_errno("create", base, errno);
  }
  if (!write_body(fd.get(), body)) return from_errno("write", base, errno);
  // After a failed sync nobody knows what is on the disk: the object is never linked.
  if (fsync(fd.get()) != 0) return from_errno("sync", base, errno);
  char path[64];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd.get());
  if (linkat(AT_FDCWD, path, directory, base, AT_SYMLINK_FOLLOW) != 0) {
    return from_errno("link", base, errno);
  }
  return {};
}

Result<> FileStore::publish_named(int directory, const char* base, Bytes body) {
  char temporary[64];
  std::snprintf(temporary, sizeof temporary, ".tmp-%d-%llu", getpid(),
                static_cast<unsigned long long>(next_temporary_.fetch_add(1)));
  const Fd fd(openat(directory, temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
  if (fd.get() < 0) return from_errno("create", base, errno);
  Result<> result;
  if (!write_body(fd.get(), body)) {
    result = from_errno("write", base, errno);
  } else if (fsync(fd.get()) != 0) {
    result = from_errno("sync", base, errno);
  } else if (linkat(directory, temporary, directory, base, 0) != 0) {
    result = from_errno("link", base, errno);
  }
  unlinkat(directory, temporary, 0);
  return result;
}

Result<> FileStore::create_now(const std::string& name, Bytes body) {
  const auto [parent, base] = split(name);
  TRY(const Directory into, directory(parent, IfMissing::create));
  const int fd = into->get();
  bool supported = has_tmpfile_.load(std::memory_order_relaxed);
  Result<> published;
  if (supported) published = publish_unnamed(fd, base.c_str(), body, supported);
  if (!supported) {
    has_tmpfile_.store(false, std::memory_order_relaxed);
    published = publish_named(fd, base.c_str(), body);
  }
  if (!published) return published;
  // Linked but perhaps not durable: unknown, so the caller looks.
  if (fsync(fd) != 0) return fail(Code::retry, "sync directory", static_cast<u64>(errno));
  return {};
}

Task<> FileStore::create(std::string name, Bytes body, Class klass) {
  INVARIANT(is_valid_name(name));
  ++counters_.creates;
  counters_.created_bytes += body.size();
  auto job = work(klass, [this, &name, body] { return create_now(name, body); });
  const Result<> result = co_await job;
  co_return result;
}

// ---- read

Result<> FileStore::read_now(const std::string& name, u64 offset, MutableBytes out) {
  const Fd fd(openat(root_->get(), name.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return from_errno("open", name, errno);
  while (!out.empty()) {
    const ssize_t count = pread(fd.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno("read", name, errno);
    if (count == 0) return corrupt("the object is shorter than it must be", offset);
    out = out.subspan(static_cast<std::size_t>(count));
    offset += static_cast<u64>(count);
  }
  return {};
}

Task<> FileStore::read(std::string name, u64 offset, MutableBytes out, Class klass) {
  INVARIANT(is_valid_name(name));
  ++counters_.reads;
  counters_.read_bytes += out.size();
  auto job = work(klass, [this, &name, offset, out] { return read_now(name, offset, out); });
  const Result<> result = co_await job;
  co_return result;
}

Result<Tail> FileStore::read_suffix_now(const std::string& name, u64 bytes_max) {
  const Fd fd(openat(root_->get(), name.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return from_errno("open", name, errno);
  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return from_errno("stat", name, errno);
  const u64 size = static_cast<u64>(info.st_size);
  Tail tail{size, Buffer(std::min(bytes_max, size))};
  MutableBytes out = tail.bytes;
  u64 offset = size - out.size();
  while (!out.empty()) {
    const ssize_t count = pread(fd.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return from_errno("read", name, errno);
    if (count == 0) return corrupt("the object became shorter", offset);
    out = out.subspan(static_cast<std::size_t>(count));
    offset += static_cast<u64>(count);
  }
  return tail;
}

Task<Tail> FileStore::read_suffix(std::string name, u64 bytes_max, Class klass) {
  INVARIANT(is_valid_name(name));
  ++counters_.reads;
  auto job = work(klass, [this, &name, bytes_max] { return read_suffix_now(name, bytes_max); });
  Result<Tail> result = co_await job;
  if (result) counters_.read_bytes += result->bytes.size();
  co_return result;
}

// ---- remove, list

Result<> FileStore::remove_now(const std::string& name) {
  const auto [parent, base] = split(name);
  const Result<Directory> from = directory(parent, IfMissing::fail);
  if (!from) {
    if (from.error().code() == Code::not_found) return {};
    return std::unexpected(from.error());
  }
  const int fd = (*from)->get();
  if (unlinkat(fd, base.c_str(), 0) != 0) {
    if (errno == ENOENT) return {};
    return from_errno("remove", name, errno);
  }
  if (fsync(fd) != 0) return from_errno("sync directory", parent, errno);
  return {};
}

Task<> FileStore::remove(std::string name) {
  INVARIANT(is_valid_name(name));
  ++counters_.removes;
  auto job = work(Class::bulk, [this, &name] { return remove_now(name); });
  const Result<> result = co_await job;
  co_return result;
}

namespace {
// Adds the names of files under `path` (relative to `root`, "" for all of it) with the prefix.
bool collect(int root, const std::string& path, const std::string& prefix,
             const std::string& after, std::vector<std::string>& out) {
  const int fd = openat(root, path.empty() ? "." : path.c_str(),
                        O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR;
  DIR* directory = fdopendir(fd);
  if (directory == nullptr) {
    close(fd);
    return false;
  }
  bool ok = true;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] == '.') continue;
    const std::string name = path.empty() ? entry->d_name : path + "/" + entry->d_name;
    bool is_directory = entry->d_type == DT_DIR;
    if (entry->d_type == DT_UNKNOWN) {
      struct stat info{};
      is_directory = fstatat(root, name.c_str(), &info, 0) == 0 && S_ISDIR(info.st_mode);
    }
    if (is_directory) {
      const std::string below = name + "/";
      const std::size_t common = std::min(below.size(), prefix.size());
      if (below.compare(0, common, prefix, 0, common) == 0) {
        ok = collect(root, name, prefix, after, out) && ok;
      }
    } else if (name.starts_with(prefix) && name > after) {
      out.push_back(name);
    }
    errno = 0;
  }
  ok = ok && errno == 0;
  closedir(directory);
  return ok;
}
}  // namespace

Result<std::vector<std::string>> FileStore::list_now(const std::string& prefix,
                                                     const std::string& after, u32 count_max) {
  std::vector<std::string> names;
  const std::size_t slash = prefix.rfind('/');
  const std::string start = slash == std::string::npos ? "" : prefix.substr(0, slash);
  if (!collect(root_->get(), start, prefix, after, names)) return from_errno("list", prefix, errno);
  if (names.size() > count_max) {
    std::ranges::nth_element(names, names.begin() + count_max);
    names.resize(count_max);
  }
  std::ranges::sort(names);
  return names;
}

Task<std::vector<std::string>> FileStore::list(std::string prefix, std::string after,
                                               u32 count_max) {
  ++counters_.lists;
  auto job = work(Class::foreground, [this, &prefix, &after, count_max] {
    return list_now(prefix, after, count_max);
  });
  Result<std::vector<std::string>> result = co_await job;
  co_return result;
}

}  // namespace zerofs::store
