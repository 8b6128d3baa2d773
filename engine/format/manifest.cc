#include "engine/format/manifest.h"

#include "engine/base/wire.h"
#include "engine/format/compress.h"
#include "engine/format/manifest_plain.h"
#include "engine/format/trailer.h"

namespace zerofs::format {

namespace {

constexpr u64 kTermsMax = u64{1} << lsm::kTermBits;
constexpr u64 kNumbersMax = u64{1} << lsm::kNumberBits;  // of log objects and tables, per term
constexpr u64 kLevelsMax = 64;
constexpr u8 kSealedFlag = 1;
constexpr u8 kClosedCleanlyFlag = 2;
// What one item takes at least: caps a count by the bytes that are left.
constexpr u64 kTermBytesMin = 1 + 16 + 1 + 1 + 8;
constexpr u64 kTableBytesMin = 8;

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

std::array<std::byte, 16> get_16(Reader& in) {
  std::array<std::byte, 16> out{};
  const Bytes raw = in.get_raw(out.size());
  if (raw.size() == out.size()) std::memcpy(out.data(), raw.data(), out.size());
  return out;
}

void put_term(Writer& out, const TermRecord& record) {
  out.put_varint(record.term.value);
  out.put_raw(record.salt);
  out.put_varint(record.replay_from);
  out.put<u8>(static_cast<u8>((record.end ? kSealedFlag : 0) |
                              (record.closed_cleanly ? kClosedCleanlyFlag : 0)));
  if (record.end) out.put_varint(*record.end);
  put_owner(out, record.owner);
}

std::optional<TermRecord> get_term(Reader& in) {
  TermRecord record;
  record.term.value = in.get_varint();
  record.salt = get_16(in);
  record.replay_from = in.get_varint();
  const u8 flags = in.get<u8>();
  if ((flags & kSealedFlag) != 0) record.end = in.get_varint();
  record.closed_cleanly = (flags & kClosedCleanlyFlag) != 0;
  record.owner = get_owner(in);
  const bool possible = in.ok() && flags <= (kSealedFlag | kClosedCleanlyFlag) &&
                        record.term.value < kTermsMax && record.replay_from < kNumbersMax &&
                        record.end.value_or(record.replay_from) < kNumbersMax &&
                        record.end.value_or(record.replay_from) >= record.replay_from;
  if (!possible) return {};
  return record;
}

void put_table(Writer& out, const TableRecord& table) {
  out.put_varint(table.id.term.value);
  out.put_varint(table.id.number);
  out.put_varint(table.object_bytes);
  out.put_varint(table.entries);
  out.put_varint(table.erased_ranges);
  out.put_varint(table.meta_entries);
  out.put_text(table.first_key);
  out.put_text(table.last_key);
}

std::optional<TableRecord> get_table(Reader& in) {
  TableRecord table;
  table.id.term.value = in.get_varint();
  table.id.number = in.get_varint();
  table.object_bytes = in.get_varint();
  table.entries = in.get_varint();
  table.erased_ranges = in.get_varint();
  table.meta_entries = in.get_varint();
  table.first_key = in.get_text();
  table.last_key = in.get_text();
  const bool possible = in.ok() && table.id.term.value < kTermsMax &&
                        table.id.number < kNumbersMax && table.first_key <= table.last_key;
  if (!possible) return {};
  return table;
}

}  // namespace

std::vector<std::byte> encode_manifest_plain(const Manifest& manifest) {
  Writer out;
  out.put_varint(manifest.version);
  out.put_raw(manifest.database);
  out.put_varint(manifest.created_unix_seconds);
  out.put_varint(manifest.last_term.value);
  out.put_varint(manifest.terms.size());
  for (const TermRecord& record : manifest.terms) put_term(out, record);
  out.put_varint(manifest.levels.size());
  for (const auto& level : manifest.levels) {
    out.put_varint(level.size());
    for (const TableRecord& table : level) put_table(out, table);
  }
  return out.take();
}

Result<Manifest> decode_manifest_plain(Bytes bytes) {
  Reader in(bytes);
  Manifest manifest;
  manifest.version = in.get_varint();
  manifest.database = get_16(in);
  manifest.created_unix_seconds = in.get_varint();
  manifest.last_term.value = in.get_varint();
  const u64 terms = in.get_varint();
  const bool possible =
      in.ok() && manifest.last_term.value < kTermsMax && terms <= in.left() / kTermBytesMin;
  if (!possible) return corrupt("manifest: head");
  manifest.terms.reserve(terms);
  for (u64 i = 0; i < terms; ++i) {
    std::optional<TermRecord> record = get_term(in);
    if (!record) return corrupt("manifest: impossible term record", i);
    const bool ordered = manifest.terms.empty() || manifest.terms.back().term < record->term;
    if (!ordered || record->term > manifest.last_term) return corrupt("manifest: term order", i);
    manifest.terms.push_back(std::move(*record));
  }
  const u64 levels = in.get_varint();
  if (!in.ok() || levels > kLevelsMax) return corrupt("manifest: levels", levels);
  for (u64 i = 0; i < levels; ++i) {
    const u64 tables = in.get_varint();
    if (!in.ok() || tables > in.left() / kTableBytesMin) return corrupt("manifest: level", i);
    std::vector<TableRecord>& level = manifest.levels.emplace_back();
    level.reserve(tables);
    for (u64 j = 0; j < tables; ++j) {
      std::optional<TableRecord> table = get_table(in);
      if (!table) return corrupt("manifest: impossible table record", j);
      level.push_back(std::move(*table));
    }
  }
  if (!in.ok() || !in.at_end()) return corrupt("manifest: cut short or too long");
  return manifest;
}

Buffer encode_manifest(const DatabaseKeys& keys, const Manifest& manifest, Bytes nonce24) {
  INVARIANT(manifest.database == keys.database());
  const std::vector<std::byte> body = encode_manifest_plain(manifest);
  INVARIANT(body.size() <= kManifestBodyBytesMax);
  const Le<u64> body_bytes = body.size();
  Buffer plain(sizeof body_bytes + compress_bound(body.size()));
  std::memcpy(plain.data(), body_bytes.raw, sizeof body_bytes);
  const std::size_t packed_bytes =
      compress_always(body, plain.mutable_bytes().subspan(sizeof body_bytes));
  plain.resize(sizeof body_bytes + packed_bytes);
  Buffer object = seal_whole(keys.manifests(), kManifestKind, keys.database(),
                             manifest_name(manifest.version), nonce24, plain);
  object.append(struct_bytes(trailer_of(kManifestMagic)));
  return object;
}

Result<Manifest> decode_manifest(const DatabaseKeys& keys, u64 version, Bytes object) {
  TRY_VOID(check_trailer(object, kManifestMagic));
  TRY(const Buffer plain, open_whole(keys.manifests(), kManifestKind, keys.database(),
                                     manifest_name(version),
                                     object.first(object.size() - sizeof(Trailer))));
  Le<u64> body_bytes;
  if (plain.size() < sizeof body_bytes) return corrupt("manifest: cut short");
  std::memcpy(body_bytes.raw, plain.data(), sizeof body_bytes);
  if (body_bytes > kManifestBodyBytesMax) return corrupt("manifest: too long", body_bytes);
  Buffer body(body_bytes);
  TRY_VOID(decompress(plain.bytes().subspan(sizeof body_bytes), body));
  TRY(Manifest manifest, decode_manifest_plain(body));
  if (manifest.version != version || manifest.database != keys.database()) {
    return corrupt("manifest: of another version or database", manifest.version);
  }
  return manifest;
}

}  // namespace zerofs::format
