#include "tools/keys.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sodium.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "engine/format/names.h"

namespace zerofs::tools {

namespace {

constexpr std::size_t kSecretBytesMax = 1 << 20;
constexpr std::size_t kKeyFileBytes = 64;
constexpr u64 kSlotBytesMax = 4096;

void complain(const std::string& what) {
  fmt::print(stderr, "zerofs: {}\n", what);
}

Result<Buffer> read_secret_file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    complain(fmt::format("cannot read {}: {}", path, std::strerror(error)));
    return fail(error == ENOENT ? Code::not_found : Code::denied, "cannot read the secret's file");
  }
  struct stat info{};
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 077) != 0) {
    spdlog::warn("{} can be read by others; chmod 600 it", path);
  }
  Buffer out(kSecretBytesMax + 1);
  std::size_t size = 0;
  for (;;) {
    const ssize_t count = read(fd, out.data() + size, out.size() - size);
    if (count <= 0 || size + static_cast<std::size_t>(count) == out.size()) break;
    size += static_cast<std::size_t>(count);
  }
  close(fd);
  out.resize(size);
  return out;
}

// The new file's name must be durable too: without it the database is lost.
Result<Buffer> create_key_file(const std::string& path) {
  Buffer key(kKeyFileBytes);
  randombytes_buf(key.data(), key.size());
  const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  bool ok = fd >= 0;
  ok = ok && write(fd, key.data(), key.size()) == static_cast<ssize_t>(key.size());
  ok = ok && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  const std::size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int up = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ok = ok && up >= 0 && fsync(up) == 0;
  const int error = errno;
  if (up >= 0) close(up);
  if (!ok) {
    complain(fmt::format("cannot create the key file {}: {}", path, std::strerror(error)));
    return fail(Code::denied, "cannot create the key file");
  }
  complain(
      fmt::format("created the key file {}. Keep a copy in another place: without it nobody "
                  "can read the database again.",
                  path));
  return key;
}

Result<Buffer> prompt(const char* text) {
  const int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    complain("no key: give --key-file or --password-file, or set ZEROFS_PASSWORD");
    return invalid("no password and no terminal to ask for one");
  }
  termios before{};
  tcgetattr(fd, &before);
  termios quiet = before;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
  static_cast<void>(!write(fd, text, std::strlen(text)));
  tcsetattr(fd, TCSAFLUSH, &quiet);
  Buffer line(4096);
  const ssize_t count = read(fd, line.data(), line.size());
  tcsetattr(fd, TCSAFLUSH, &before);
  static_cast<void>(!write(fd, "\n", 1));
  close(fd);
  std::size_t size = count > 0 ? static_cast<std::size_t>(count) : 0;
  while (size != 0 && (line.data()[size - 1] == std::byte{'\n'})) --size;
  line.resize(size);
  return line;
}

Result<Buffer> password(const SecretSource& source, Purpose purpose) {
  if (!source.password_file.empty()) {
    TRY(Buffer text, read_secret_file(source.password_file));
    std::size_t size = text.size();
    while (size != 0 &&
           (text.data()[size - 1] == std::byte{'\n'} || text.data()[size - 1] == std::byte{'\r'})) {
      --size;
    }
    text.resize(size);
    return text;
  }
  if (char* text = std::getenv(source.environment)) {
    Buffer out = Buffer::copy_of(bytes_of(text));
    sodium_memzero(text, std::strlen(text));
    unsetenv(source.environment);
    return out;
  }
  TRY(Buffer first, prompt(source.prompt));
  if (purpose == Purpose::create) {
    TRY(const Buffer second, prompt("The same again: "));
    if (!std::ranges::equal(first.bytes(), second.bytes())) {
      complain("the two passwords differ");
      return invalid("the two passwords differ");
    }
  }
  return first;
}

}  // namespace

Result<format::KeyMaterial> obtain_key_material(const SecretSource& source, Purpose purpose) {
  format::KeyMaterial material;
  if (!source.key_file.empty()) {
    material.kind = format::KeyMaterial::Kind::key_file;
    if (purpose == Purpose::create && access(source.key_file.c_str(), F_OK) != 0) {
      TRY(material.secret, create_key_file(source.key_file));
    } else {
      TRY(material.secret, read_secret_file(source.key_file));
    }
    return material;
  }
  material.kind = format::KeyMaterial::Kind::password;
  TRY(material.secret, password(source, purpose));
  if (material.secret.empty()) {
    complain("the password is empty");
    return invalid("the password is empty");
  }
  return material;
}

namespace {
// A create whose reply was lost meets its own object at the second try.
Task<> create_own(store::ObjectStore& store, std::string name, Bytes body) {
  const Result<> created = co_await as_result(store.create(name, body, store::Class::foreground));
  if (created || created.error().code() != Code::precondition) co_return created;
  const store::Tail there =
      co_await store.read_suffix(name, body.size() + 1, store::Class::foreground);
  if (!std::ranges::equal(there.bytes.bytes(), body)) co_return created;
  co_return {};
}

Task<std::vector<u64>> slots(store::ObjectStore& store) {
  std::vector<u64> out;
  const std::vector<std::string> names = co_await store.list(format::kKeySlotPrefix, "", 1000);
  for (const std::string& name : names) {
    if (const std::optional<u64> slot = format::key_slot_of(name)) out.push_back(*slot);
  }
  co_return std::move(out);
}
}  // namespace

Task<format::DataKey> create_key_slot(store::ObjectStore& store, format::KeyMaterial material,
                                      Random& random) {
  const std::vector<u64> existing = co_await slots(store);
  if (!existing.empty()) co_return fail(Code::precondition, "a database exists there already");
  format::DataKey data_key;
  random.fill(data_key.key);
  random.fill(data_key.database);
  const Buffer slot = co_await format::encode_key_slot(material, data_key, 1, {}, random);
  co_await create_own(store, format::key_slot_name(1), slot);
  co_return data_key;
}

Task<std::vector<u64>> find_key_slots(store::ObjectStore& store) {
  std::vector<u64> existing = co_await slots(store);
  if (existing.empty()) {
    co_return fail(Code::not_found, "no database there; create one with zerofs init, or --init");
  }
  co_return std::move(existing);
}

Task<format::DataKey> unlock(store::ObjectStore& store, std::vector<u64> slots,
                             format::KeyMaterial material) {
  // The newest first: an older one is what a change of the password could not remove.
  Error last(Code::denied, "wrong password or key");
  for (auto slot = slots.rbegin(); slot != slots.rend(); ++slot) {
    const std::string name = format::key_slot_name(*slot);
    const Result<store::Tail> tail =
        co_await as_result(store.read_suffix(name, kSlotBytesMax, store::Class::foreground));
    if (!tail && tail.error().code() == Code::not_found) continue;
    if (!tail) co_return std::unexpected(tail.error());
    const Result<format::DataKey> key = format::decode_key_slot(material, *slot, tail->bytes);
    if (key) co_return *key;
    last = key.error();
    if (last.code() == Code::corrupt) spdlog::error("{} is damaged: {}", name, last.text());
  }
  co_return std::unexpected(last);
}

Task<> replace_key_slots(store::ObjectStore& store, format::DataKey data_key,
                         format::KeyMaterial material, Random& random) {
  const std::vector<u64> existing = co_await slots(store);
  const u64 next = (existing.empty() ? 0 : existing.back()) + 1;
  const Buffer slot = co_await format::encode_key_slot(material, data_key, next, {}, random);
  co_await create_own(store, format::key_slot_name(next), slot);
  // Only now, with the new slot durable, may the old ones go.
  for (const u64 old : existing) co_await store.remove(format::key_slot_name(old));
  co_return {};
}

}  // namespace zerofs::tools
