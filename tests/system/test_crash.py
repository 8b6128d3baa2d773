#!/usr/bin/python3
"""The server is killed again and again while several connections write, flush, discard and zero;
after every restart the image must be a prefix not older than the last acknowledged flush."""

import os
import random
import time

from harness import Directory, binary_from_argv
from stamped import Image, Writer, read_image

KILLS = int(os.environ.get("CRASH_KILLS", "200"))
SEED = int(os.environ.get("CRASH_SEED", str(random.randrange(1 << 32))))
PAGES = 4096
WRITERS = 3

print(f"seed {SEED}")
rng = random.Random(SEED)
with Directory() as directory:
    server = directory.server(binary_from_argv(), volume=f"data:{PAGES * 4096}", memory="64MiB")
    server.start()
    image = Image(PAGES)
    operations = flushes = lost = 0
    for kill in range(KILLS):
        # Shares of neighbouring pages, so that chunks and frames hold pages of several writers.
        shares = [[p for p in range(PAGES) if p // 3 % WRITERS == w] for w in range(WRITERS)]
        writers = [Writer(image, server.socket, shares[w], rng.random()) for w in range(WRITERS)]
        for writer in writers:
            writer.start()
        time.sleep(rng.choice((0.02, 0.1, 0.3, 0.6)) * (0.5 + rng.random()))
        server.kill()
        for writer in writers:
            writer.join()
            assert not writer.errors, writer.errors
            operations += writer.count
            flushes += writer.flushes
        server.start()
        lost += image.check(read_image(server.socket, PAGES))
    assert operations > KILLS and flushes > KILLS / 4, (operations, flushes)
    assert server.stop() == 0
    server.start()
    image.check(read_image(server.socket, PAGES))
    assert server.stop() == 0
    print(f"RESULT {KILLS} kills, {operations} operations, {flushes} flushes acknowledged, "
          f"{lost} unflushed operations lost, every image a prefix")
