#!/usr/bin/python3
"""The store's file system fills up: writes wait or fail with ENOSPC, nothing acknowledged by a flush
is lost, and the server goes on by itself when space is back."""

import errno
import json
import os
import subprocess
import threading

from harness import FLUSH, PAGE, WRITE, Client, Directory, binary_from_argv, wait_until
from stamped import stamp

PAGES = 16384

binary = binary_from_argv()
if os.environ.get("INSIDE") != "1":
    os.environ["INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", __file__, binary])

with Directory() as directory:
    small = directory.path + "/small"
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", small], check=True)
    server = directory.server(binary, volume=f"data:{PAGES * PAGE}", memory="64MiB")
    server.store = small + "/store"
    ballast = small + "/ballast"
    with open(ballast, "wb") as f:
        f.write(bytes(20 << 20))
    server.start()
    client = Client(server.socket, timeout=120)
    flushed = {}
    full = threading.Event()
    done = threading.Event()
    failures = []

    def work():
        try:
            pending = {}
            for number in range(2, 32000, 2):  # even stamps do not compress: 62 MiB
                page = number // 2 * 7 % PAGES
                error = client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, number))
                assert error in (0, errno.ENOSPC), error
                if error == 0:
                    pending[page] = number
                if number % 128 == 0:
                    error = client.call(FLUSH)
                    assert error == 0, error
                    flushed.update(pending)
                    pending.clear()
            assert client.call(FLUSH) == 0
            flushed.update(pending)
        except Exception as problem:
            failures.append(problem)
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def said_full():
        return "no space" in open(server.log).read()

    wait_until(said_full, 60, "the disk is full and the server says so")
    assert not done.is_set() and not failures, failures
    other = Client(server.socket)
    page, number = next(iter(flushed.items()))
    assert other.read(page * PAGE, PAGE) == stamp(page, number), "reads go on"
    status = server.command("status", "--json")
    assert status.returncode == 0 and json.loads(status.stdout)["store_failing_seconds"] > 0, status
    os.unlink(ballast)
    subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
    assert done.wait(60) and not failures, failures
    server.kill()
    server.start()
    client = Client(server.socket)
    for page, number in flushed.items():
        assert client.read(page * PAGE, PAGE) == stamp(page, number), page
    assert server.stop() == 0
    subprocess.run(["umount", "-l", small], check=True)
    print(f"RESULT full disk survived: {len(flushed)} flushed pages intact after it and a kill")
