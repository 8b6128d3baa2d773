// Goal: volumes keep their names, sizes and contents over changes, crashes and odd requests.
// Method: a set on a database on a store in memory, closed and opened again.
#include "nbd/volume.h"

#include <doctest/doctest.h>

#include "engine/base/wire.h"
#include "tests/engine/world.h"

namespace zerofs::nbd {
namespace {

struct Site {
  Site() {
    world.create();
    open();
  }
  ~Site() {
    volumes.reset();
    CHECK(world.run(db->close()).has_value());
  }
  void open() {
    auto opened = world.open();
    REQUIRE(opened.has_value());
    db = std::move(*opened);
    auto loaded = world.run(VolumeSet::open(world.runtime(), *db));
    REQUIRE(loaded.has_value());
    volumes = std::move(*loaded);
  }
  void crash() {
    volumes.reset();
    db->abandon();
    static_cast<void>(world.run(db->close()));
    db.reset();
    open();
  }
  Code code(Task<> task) {
    const Result<> result = world.run(std::move(task));
    return result ? Code{} : result.error().code();
  }

  zerofs::test::World world;
  std::unique_ptr<Db> db;
  std::unique_ptr<VolumeSet> volumes;
};

constexpr Code kFine{};

TEST_CASE("names") {
  for (const char* good :
       {"a", "disk 1", "a.b", "...", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "-", "a\\b"}) {
    CHECK(check_volume_name(good).has_value());
  }
  CHECK(check_volume_name(std::string(255, 'x')).has_value());
  for (const char* bad : {"", ".", "..", "a/b", "/", "a\nb", "\x7f", "\x80", "\xc0\xaf", "\xc3",
                          "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "a\xff"}) {
    CHECK(!check_volume_name(bad).has_value());
  }
  CHECK(!check_volume_name(std::string(256, 'x')).has_value());
  CHECK(!check_volume_name(std::string_view("a\0b", 3)).has_value());
}

TEST_CASE("sizes") {
  CHECK(check_volume_size(512).has_value());
  CHECK(check_volume_size(u64{1} << 56).has_value());
  for (const u64 bad : {u64{0}, u64{1}, u64{513}, (u64{1} << 56) + 512, ~u64{0}}) {
    CHECK(!check_volume_size(bad).has_value());
  }
}

TEST_CASE("create, list, find; all of it survives a crash") {
  Site site;
  CHECK(site.code(site.volumes->create("b", kGiB)) == kFine);
  CHECK(site.code(site.volumes->create("a", 512)) == kFine);
  CHECK(site.code(site.volumes->create("a", 512)) == Code::precondition);
  CHECK(site.code(site.volumes->create("bad/name", 512)) == Code::invalid);
  CHECK(site.code(site.volumes->create("c", 100)) == Code::invalid);
  const ObjectId object = site.volumes->find("b")->info().object;
  site.crash();
  const auto all = site.volumes->list();
  REQUIRE(all.size() == 2);
  CHECK(all[0]->name() == "a");
  CHECK(all[1]->name() == "b");
  CHECK(all[1]->size() == kGiB);
  CHECK(all[1]->info().object == object);
  CHECK(all[1]->info().created_unix_seconds > 1'600'000'000);
  CHECK(site.volumes->find("c") == nullptr);
}

TEST_CASE("a volume that is created again under its old name is empty") {
  Site site;
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  {
    const auto volume = site.volumes->find("a");
    CHECK(site.db->try_write(volume->object(), 0, Bytes(cache::zero_chunk(), 4096)));
  }
  const ObjectId before = site.volumes->find("a")->info().object;
  CHECK(site.code(site.volumes->remove("a")) == kFine);
  CHECK(site.code(site.volumes->remove("a")) == Code::not_found);
  site.crash();
  CHECK(site.volumes->list().empty());
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  const auto volume = site.volumes->find("a");
  CHECK(volume->info().object != before);
  const auto extents = site.world.run(site.db->extents(volume->object(), 0, kMiB, 10));
  REQUIRE(extents.has_value());
  REQUIRE(extents->size() == 1);
  CHECK(extents->front().kind == ExtentKind::hole);
}

TEST_CASE("resize") {
  Site site;
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  CHECK(site.code(site.volumes->resize("a", 2 * kMiB, VolumeSet::Shrink::refuse)) == kFine);
  CHECK(site.code(site.volumes->resize("a", kMiB, VolumeSet::Shrink::refuse)) == Code::invalid);
  CHECK(site.code(site.volumes->resize("a", kMiB + 1, VolumeSet::Shrink::allow)) == Code::invalid);
  CHECK(site.code(site.volumes->resize("b", kMiB, VolumeSet::Shrink::allow)) == Code::not_found);
  CHECK(site.volumes->find("a")->size() == 2 * kMiB);
  CHECK(site.code(site.volumes->resize("a", kMiB + 512, VolumeSet::Shrink::allow)) == kFine);
  site.crash();
  CHECK(site.volumes->find("a")->size() == kMiB + 512);
}

TEST_CASE("shrinking waits for what was let in before") {
  Site site;
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  const auto volume = site.volumes->find("a");
  volume->mutation_begins();
  Gate gate(site.world.reactor());
  gate.spawn(site.volumes->resize("a", 4096, VolumeSet::Shrink::allow));
  CHECK(gate.count() == 1);
  CHECK(volume->size() == 4096);  // nothing new goes beyond it
  volume->mutation_ends();
  CHECK(site.world.run(gate.close()).has_value());
  CHECK(volume->size() == 4096);
}

TEST_CASE("an attached volume is not removed") {
  Site site;
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  site.volumes->find("a")->session_begins();
  CHECK(site.code(site.volumes->remove("a")) == Code::busy);
  site.volumes->find("a")->session_ends();
  CHECK(site.code(site.volumes->remove("a")) == kFine);
}

TEST_CASE("records that are damaged, or of a newer version, stop the opening") {
  for (const std::string& record : {std::string("\x01"), std::string("\x02\x01\x01\x00\x01", 5),
                                    std::string(), std::string("\x01\x01\x01\x00\x01\x01", 6)}) {
    Site site;
    Transaction transaction;
    transaction.meta.push_back({"v/x", record});
    REQUIRE(site.code(site.db->commit(std::move(transaction))) == kFine);
    CHECK(!site.world.run(VolumeSet::open(site.world.runtime(), *site.db)).has_value());
  }
}

TEST_CASE("the bytes of a record") {
  Site site;
  REQUIRE(site.code(site.volumes->create("a", kMiB)) == kFine);
  const VolumeInfo info = site.volumes->find("a")->info();
  const auto record = site.world.run(site.db->get_meta("v/a"));
  REQUIRE(record.has_value());
  REQUIRE(record->has_value());
  Writer expected;
  expected.put<u8>(1);
  expected.put_varint(info.object.value);
  expected.put_varint(kMiB);
  expected.put<u8>(0);
  expected.put_varint(info.created_unix_seconds);
  CHECK(**record == text_of(expected.bytes()));
  CHECK((**record)[0] == 1);
}

}  // namespace
}  // namespace zerofs::nbd
