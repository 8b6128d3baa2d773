#!/usr/bin/python3
"""Damaged stores: every object truncated, flipped, swapped with another, or missing, one at a time,
and wrong secrets. The server must say which object it is or serve the right bytes: never wrong
bytes, never a crash."""

import glob
import os
import random
import shutil

from harness import FLUSH, PAGE, WRITE, Client, Directory, binary_from_argv
from stamped import stamp

PAGES = 1024
rng = random.Random(7)
binary = binary_from_argv()


def objects(store):
    return sorted(p for p in glob.glob(store + "/**", recursive=True) if os.path.isfile(p) and "/probe/" not in p)


with Directory() as directory:
    server = directory.server(binary, volume=f"data:{PAGES * PAGE}")
    server.start()
    client = Client(server.socket)
    numbers = {}

    def write_some(count, base):
        for i in range(count):
            page = rng.randrange(PAGES)
            numbers[page] = base + i
            assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, base + i)) == 0
            if i % 40 == 0:
                assert client.call(FLUSH) == 0
        assert client.call(FLUSH) == 0

    write_some(300, 1)
    client.close()
    assert server.stop() == 0  # tables
    server.start()
    client = Client(server.socket)
    write_some(200, 1000)  # and a log to replay
    client.close()
    server.kill()

    pristine = directory.path + "/pristine"
    shutil.copytree(server.store, pristine)
    names = [os.path.relpath(p, pristine) for p in objects(pristine)]
    kinds = {name.split("/")[0] for name in names}
    assert kinds == {"key", "log", "manifest", "sst"}, kinds

    def flip(path, others):
        with open(path, "r+b") as f:
            size = os.path.getsize(path)
            at = rng.randrange(size)
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 1 << rng.randrange(8)]))

    def truncate(path, others):
        os.truncate(path, rng.randrange(os.path.getsize(path)))

    def swap(path, others):
        other = rng.choice([o for o in others if o != path] or [path])
        if other == path:
            return remove(path, others)  # the only one of its kind
        shutil.copy(other, path)

    def remove(path, others):
        os.unlink(path)

    served = refused = errors = 0
    for name in names:
        for damage in (flip, truncate, swap, remove):
            shutil.rmtree(server.store)
            shutil.copytree(pristine, server.store)
            path = os.path.join(server.store, name)
            damage(path, [p for p in objects(server.store) if p.split("/")[-3:-1] == path.split("/")[-3:-1]])
            open(server.log, "w").close()
            what = f"{damage.__name__} {name}"
            try:
                server.start()
            except RuntimeError:
                status = server.process.returncode
                assert status in (1, 4, 5), f"{what}: status {status}\n{server.tail()}"
                if name.split("/")[0] != "key":
                    assert name in server.tail() or "manifest" in name or damage is remove, \
                        f"{what}: the log does not name it\n{server.tail()}"
                refused += 1
                continue
            client = Client(server.socket)
            wrong = 0
            for page in range(PAGES):
                try:
                    block = client.read(page * PAGE, PAGE)
                except OSError:
                    wrong += 1
                    continue
                expected = stamp(page, numbers[page]) if page in numbers else bytes(PAGE)
                # Without its newest manifest or the end of a log, a store shows an older whole state:
                # nothing inside it can tell (DESIGN, P4). Such a page is an older stamp of its own.
                if block != expected and not (damage is remove and name.split("/")[0] in ("manifest", "log")):
                    raise AssertionError(f"{what}: page {page} has wrong bytes")
            if wrong:
                assert name in open(server.log).read(), f"{what}: the log does not name it\n{server.tail()}"
                errors += 1
            served += 1
            client.close()
            server.kill()
    shutil.rmtree(server.store)
    shutil.copytree(pristine, server.store)

    # Wrong secrets.
    good = server.key
    for secret, expected in ((os.urandom(64), 4), (b"short", 1)):
        server.key = directory.path + "/wrong"
        with open(server.key, "wb") as f:
            f.write(secret)
        server.start(wait=False)
        assert server.finish() == expected, server.tail()
    server.key = good
    server.start()
    client = Client(server.socket)
    for page, number in numbers.items():
        assert client.read(page * PAGE, PAGE) == stamp(page, number)
    client.close()
    assert server.stop() == 0
    print(f"RESULT {len(names)} objects x 4 kinds of damage: {refused} refused by name, {errors} read errors, "
          f"{served - errors} harmless, never wrong bytes")
