#!/usr/bin/python3
"""The owner of a store is stopped (SIGSTOP), a second server takes over, the first one wakes up. It
must never acknowledge a flush for a write that its successor did not replay, close its sessions
and end; and a second server without --takeover is refused while the first one lives."""

import random
import signal
import subprocess
import time

from harness import FLUSH, PAGE, WRITE, Client, Directory, Server, binary_from_argv
from stamped import Image, Writer, read_image, stamp

PAGES = 2048
ROUNDS = 10

binary = binary_from_argv()
with Directory() as directory:
    for turn in range(ROUNDS):
        old = directory.server(binary, volume=f"data:{PAGES * PAGE}")
        old.socket = f"{directory.path}/old{turn}.sock"
        old.control = f"{directory.path}/old{turn}.control"
        old.start("--takeover")
        image = Image(PAGES)
        data = read_image(old.socket, PAGES)
        for page in range(PAGES):
            image.base[page] = int.from_bytes(data[page * PAGE + 8:page * PAGE + 16], "little")
        top = max(image.base)
        image.numbers = iter(range(top + 1, 1 << 60))
        writers = [Writer(image, old.socket, list(range(w, PAGES, 2)), turn * 2 + w) for w in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.1 + random.random() * 0.3)
        old.process.send_signal(signal.SIGSTOP)

        if turn == 0:
            refused = Server(binary, directory.path, volume=f"data:{PAGES * PAGE}")
            refused.socket = f"{directory.path}/refused.sock"
            refused.control = f"{directory.path}/refused.control"
            refused.start(wait=False)
            assert refused.finish() == 3, "a live owner must be respected"
            assert str(old.process.pid) in refused.tail(), refused.tail()

        young = directory.server(binary, volume=f"data:{PAGES * PAGE}")
        young.socket = f"{directory.path}/young{turn}.sock"
        young.control = f"{directory.path}/young{turn}.control"
        young.start("--takeover")
        seen = read_image(young.socket, PAGES)  # what the successor replayed

        # The zombie wakes, with requests in its sockets and in flight, and writers that go on.
        old.process.send_signal(signal.SIGCONT)
        status = old.finish()
        assert status == 1, f"the fenced server ended with {status}:\n{old.tail()}"
        for writer in writers:
            writer.join(30)
            assert not writer.is_alive(), "the fenced server did not close its sessions"
        # Flushes acknowledged after the takeover count as well: all of it must have been replayed.
        image.check(seen)

        client = Client(young.socket)
        assert client.call(WRITE, 0, PAGE, 0, stamp(0, top + 10**6 + turn)) == 0
        assert client.call(FLUSH) == 0
        client.close()
        assert young.stop() == 0
    print(f"RESULT {ROUNDS} takeovers: the stopped server never acknowledged what was not replayed")
