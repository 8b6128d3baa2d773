#include "engine/format/manifest.h"

#include <zstd.h>

#include "engine/base/wire.h"
#include "engine/format/manifest_plain.h"

namespace zerofs::format {

namespace {
constexpr u8 kManifestKind = 17;
constexpr char kManifestMagic[8] = {'z', 'f', 's', '-', 'm', 'a', 'n', '1'};
constexpr u64 kManifestPlainBytesMax = 512 * kMiB;

void put_owner(Writer& out, const Owner& owner) {
  out.put_text(owner.hostname);
  out.put_text(owner.machine_id);
  out.put_text(owner.boot_id);
  out.put_text(owner.pid_namespace);
  out.put_varint(owner.pid);
  out.put_varint(owner.start_time);
  out.put_varint(owner.opened_unix_seconds);
  out.put_text(owner.role);
}

Owner get_owner(Reader& in) {
  Owner owner;
  owner.hostname = in.get_text();
  owner.machine_id = in.get_text();
  owner.boot_id = in.get_text();
  owner.pid_namespace = in.get_text();
  owner.pid = in.get_varint();
  owner.start_time = in.get_varint();
  owner.opened_unix_seconds = in.get_varint();
  owner.role = in.get_text();
  return owner;
}

void copy_raw(Bytes from, std::span<std::byte, 16> to) {
  if (from.size() == to.size()) std::memcpy(to.data(), from.data(), to.size());
}
}  // namespace

std::vector<std::byte> encode_manifest_plain(const Manifest& manifest) {
  Writer out;
  out.put<u32>(kFormatVersion);
  out.put_varint(manifest.version);
  out.put_raw(manifest.database);
  out.put_varint(manifest.created_unix_seconds);
  out.put_varint(manifest.last_term.value);
  out.put_varint(manifest.terms.size());
  for (const TermRecord& record : manifest.terms) {
    out.put_varint(record.term.value);
    out.put_raw(record.salt);
    out.put_varint(record.replay_from);
    out.put<u8>(static_cast<u8>((record.end ? 1 : 0) | (record.closed_cleanly ? 2 : 0)));
    if (record.end) out.put_varint(*record.end);
    put_owner(out, record.owner);
  }
  out.put_varint(manifest.levels.size());
  for (const auto& level : manifest.levels) {
    out.put_varint(level.size());
    for (const TableRecord& table : level) {
      out.put_varint(table.id.term.value);
      out.put_varint(table.id.number);
      out.put_varint(table.object_bytes);
      out.put_varint(table.entries);
      out.put_varint(table.erased_ranges);
      out.put_varint(table.meta_entries);
      out.put_text(table.first_key);
      out.put_text(table.last_key);
    }
  }
  return out.take();
}

Result<Manifest> decode_manifest_plain(Bytes bytes) {
  Reader in(bytes);
  const u32 format = in.get<u32>();
  if (!in.ok()) return corrupt("manifest: cut short");
  if (format > kFormatVersion) return invalid("manifest: written by a newer ZeroFS, format", format);
  Manifest manifest;
  manifest.version = in.get_varint();
  copy_raw(in.get_raw(16), manifest.database);
  manifest.created_unix_seconds = in.get_varint();
  manifest.last_term.value = in.get_varint();
  const u64 terms = in.get_varint();
  if (!in.ok() || terms > in.left() / 16) return corrupt("manifest: terms");
  for (u64 i = 0; i < terms; ++i) {
    TermRecord record;
    record.term.value = in.get_varint();
    copy_raw(in.get_raw(16), record.salt);
    record.replay_from = in.get_varint();
    const u8 flags = in.get<u8>();
    if ((flags & 1) != 0) record.end = in.get_varint();
    record.closed_cleanly = (flags & 2) != 0;
    record.owner = get_owner(in);
    const bool ordered = manifest.terms.empty() || manifest.terms.back().term < record.term;
    if (!in.ok() || flags > 3 || !ordered || record.term.value >= u64{1} << lsm::kTermBits ||
        record.term > manifest.last_term || (record.end && *record.end < record.replay_from)) {
      return corrupt("manifest: term");
    }
    manifest.terms.push_back(std::move(record));
  }
  const u64 levels = in.get_varint();
  if (!in.ok() || levels > 64) return corrupt("manifest: levels");
  for (u64 i = 0; i < levels; ++i) {
    const u64 tables = in.get_varint();
    if (!in.ok() || tables > in.left() / 8) return corrupt("manifest: level");
    std::vector<TableRecord>& level = manifest.levels.emplace_back();
    for (u64 j = 0; j < tables; ++j) {
      TableRecord table;
      table.id.term.value = in.get_varint();
      table.id.number = in.get_varint();
      table.object_bytes = in.get_varint();
      table.entries = in.get_varint();
      table.erased_ranges = in.get_varint();
      table.meta_entries = in.get_varint();
      table.first_key = in.get_text();
      table.last_key = in.get_text();
      if (!in.ok() || table.first_key > table.last_key) return corrupt("manifest: table");
      level.push_back(std::move(table));
    }
  }
  if (!in.ok() || !in.at_end()) return corrupt("manifest: cut short or too long");
  return manifest;
}

Buffer encode_manifest(const DatabaseKeys& keys, const Manifest& manifest, Bytes nonce24) {
  const std::vector<std::byte> plain = encode_manifest_plain(manifest);
  // Plain length, then the compressed bytes.
  std::vector<std::byte> packed(8 + ZSTD_compressBound(plain.size()));
  const Le<u64> length = plain.size();
  std::memcpy(packed.data(), length.raw, 8);
  const std::size_t size =
      ZSTD_compress(packed.data() + 8, packed.size() - 8, plain.data(), plain.size(), 1);
  INVARIANT(!ZSTD_isError(size));
  packed.resize(8 + size);
  Buffer object = seal_whole(keys.manifests(), kManifestKind, keys.database(),
                             manifest_name(manifest.version), nonce24, packed);
  object.append(bytes_of({kManifestMagic, sizeof kManifestMagic}));
  return object;
}

Result<Manifest> decode_manifest(const DatabaseKeys& keys, u64 version, Bytes object) {
  if (object.size() < 8 || text_of(object.last(8)) != std::string_view(kManifestMagic, 8)) {
    return corrupt("manifest: not a manifest");
  }
  TRY(const Buffer packed, open_whole(keys.manifests(), kManifestKind, keys.database(),
                                      manifest_name(version), object.first(object.size() - 8)));
  if (packed.size() < 8) return corrupt("manifest: cut short");
  Le<u64> length;
  std::memcpy(length.raw, packed.data(), 8);
  if (length > kManifestPlainBytesMax) return corrupt("manifest: too long");
  Buffer plain(length);
  const std::size_t size =
      ZSTD_decompress(plain.data(), plain.size(), packed.data() + 8, packed.size() - 8);
  if (ZSTD_isError(size) || size != plain.size()) return corrupt("manifest: compressed bytes");
  TRY(Manifest manifest, decode_manifest_plain(plain));
  if (manifest.version != version || manifest.database != keys.database()) {
    return corrupt("manifest: of another version or database");
  }
  return manifest;
}

}  // namespace zerofs::format
