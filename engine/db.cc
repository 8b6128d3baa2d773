#include "engine/db.h"

#include "engine/db_impl.h"

namespace zerofs {

Db::Db(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Db::~Db() = default;

Task<> Db::create(Runtime runtime, store::ObjectStore& store, const format::DatabaseKeys& keys) {
  lsm::VersionSet versions(runtime, store, keys);
  co_await versions.create();
  co_return {};
}

Task<std::unique_ptr<Db>> Db::open(Runtime runtime, store::ObjectStore& store,
                                   const format::DatabaseKeys& keys, DbOptions options) {
  if (options.memory_bytes < kMemoryBytesMin || options.memory_bytes > kMemoryBytesMax) {
    co_return invalid("impossible memory size", options.memory_bytes);
  }
  const u64 pages = options.memory_bytes / 10 * 7 / kPageBytes;
  std::unique_ptr<cache::PageSlab> slab =
      co_await cache::PageSlab::create(static_cast<u32>(pages));
  auto impl = std::make_unique<Impl>(runtime, store, keys, std::move(options), std::move(slab));
  co_await impl->open();
  co_return std::unique_ptr<Db>(new Db(std::move(impl)));
}

Task<> Db::close() { return impl_->close(); }
void Db::abandon() { impl_->abandon(); }
Task<bool> Db::wait_fenced() { return impl_->wait_fenced(); }
bool Db::fenced() const { return impl_->fenced(); }

ObjectId Db::new_object_id() { return impl_->new_object_id(); }
Object* Db::open_object(ObjectId id) { return impl_->cache().open_object(id); }
void Db::close_object(Object* object) { impl_->cache().close_object(object); }

bool Db::try_read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out) {
  return impl_->try_read(object, offset, bytes, out);
}
Task<> Db::read(Object& object, u64 offset, u32 bytes, std::vector<Piece>& out) {
  return impl_->read(object, offset, bytes, out);
}
void Db::unpin(std::span<const Piece> pieces) { impl_->unpin(pieces); }
void Db::expect(const Object& object, std::span<const u64> offsets) const {
  impl_->expect(object, offsets);
}

bool Db::try_write(Object& object, u64 offset, Bytes data) {
  return impl_->try_write(object, offset, data);
}
Task<> Db::write(Object& object, u64 offset, Bytes data) {
  return impl_->write(object, offset, data);
}
bool Db::try_take_pages(u32 count, std::vector<cache::PageIndex>& out) {
  return impl_->try_take_pages(count, out);
}
Task<> Db::take_pages(u32 count, std::vector<cache::PageIndex>& out) {
  return impl_->take_pages(count, out);
}
std::byte* Db::page_data(cache::PageIndex page) { return impl_->slab().data(page); }
void Db::write_pages(Object& object, u64 first_page, std::span<const cache::PageIndex> pages) {
  impl_->write_pages(object, first_page, pages);
}
void Db::return_pages(std::span<const cache::PageIndex> pages) { impl_->return_pages(pages); }

Task<> Db::discard(Object& object, u64 offset, u64 bytes) {
  return impl_->set_empty(object, offset, bytes, lsm::RunKind::hole, false);
}
Task<> Db::write_zeroes(Object& object, u64 offset, u64 bytes, ZeroAs as) {
  return impl_->set_empty(object, offset, bytes,
                          as == ZeroAs::zero ? lsm::RunKind::zero : lsm::RunKind::hole, true);
}

Position Db::position() const { return impl_->position(); }
Task<> Db::wait_durable(Position position) { return impl_->wait_durable(position); }
bool Db::is_durable(Position position) const { return impl_->is_durable(position); }

Task<std::vector<Extent>> Db::extents(Object& object, u64 offset, u64 bytes, u32 count_max) {
  return impl_->extents(object, offset, bytes, count_max);
}
Task<> Db::prefetch(Object& object, u64 offset, u64 bytes) {
  return impl_->prefetch(object, offset, bytes);
}

Task<std::optional<std::string>> Db::get_meta(std::string key) {
  return impl_->get_meta(std::move(key));
}
Task<std::vector<lsm::MetaEntry>> Db::scan_meta(std::string prefix) {
  return impl_->scan_meta(std::move(prefix));
}
Task<> Db::commit(Transaction transaction) { return impl_->commit(std::move(transaction)); }

DbStatus Db::status() const { return impl_->status(); }

DbStatus Db::Impl::status() const {
  DbStatus status;
  status.term = term_;
  status.log_sealed = log_.sealed_end();
  status.log_durable = log_.durable_end();
  status.memory_bytes = options_.memory_bytes;
  status.dirty_bytes = dirty_pages() * kPageBytes;
  status.dirty_bytes_max = dirty_pages_max() * kPageBytes;
  status.cache_pages = cache_.memory_pages();
  status.cache_pages_max = slab_->page_count();
  status.layer_bytes = memtable_.memory_bytes();
  status.layers = memtable_.layers().size();
  status.tables = tables_->size();
  status.tables_level0 = tables_->level0_size();
  status.compactions = compactions_;
  status.index_bytes = blocks_.bytes();
  status.manifest_version = versions_.current().version;
  status.flush_tokens = flush_tokens_.level();
  status.user_bytes_written = user_bytes_written_;
  status.store_bytes_written = log_.counters().bytes + table_bytes_written_;
  status.reads_from_store = reads_from_store_;
  if (const auto since = log_.failing_since()) {
    status.store_failing_for = runtime_.clock.now() - *since;
    status.store_error = log_.last_error().text();
  }
  return status;
}

}  // namespace zerofs
