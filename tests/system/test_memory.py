#!/usr/bin/python3
"""--memory 256MiB holds (resident memory at most 1.3 times that plus 64 MiB) under four clients that
write MEMORY_GIB (default 4; 20 for the full test) of incompressible data, then read some back."""

import os
import random
import threading

from harness import FLUSH, READ, WRITE, Client, Directory, binary_from_argv, receive_exactly

GIB = float(os.environ.get("MEMORY_GIB", "4"))
MIB = 1 << 20
LIMIT = int(1.3 * 256 * MIB) + 64 * MIB
VOLUME = 2 << 30

with Directory() as directory:
    server = directory.server(binary_from_argv(), volume=f"data:{VOLUME}", memory="256MiB")
    server.start()
    noise = random.Random(3).randbytes(8 * MIB)
    failures = []
    peak = 0

    def resident():
        for line in open(f"/proc/{server.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024

    def write(seed):
        try:
            rng = random.Random(seed)
            client = Client(server.socket, timeout=300)
            left = int(GIB * (1 << 30) / 4)
            in_flight = 0
            cookie = 0
            while left > 0 or in_flight:
                while left > 0 and in_flight < 16:
                    length = rng.choice((4096, 4096, 65536, MIB))
                    offset = rng.randrange(VOLUME // 4096 - length // 4096) * 4096
                    at = rng.randrange(len(noise) - length)
                    client.send(WRITE, cookie, offset, length, 0, noise[at:at + length])
                    left -= length
                    in_flight += 1
                    cookie += 1
                _, error = client.reply()
                assert error == 0, error
                in_flight -= 1
            assert client.call(FLUSH) == 0
            for _ in range(200):
                client.read(rng.randrange(VOLUME // MIB) * MIB, MIB)
        except Exception as problem:
            failures.append(problem)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.05)
        for thread in threads:
            thread.join(0.02)
        peak = max(peak, resident())
        assert peak <= LIMIT, f"{peak / MIB:.0f} MiB resident, limit {LIMIT / MIB:.0f} MiB"
    assert not failures, failures
    assert server.stop(120) == 0
    print(f"RESULT peak {peak / MIB:.0f} MiB resident of {LIMIT / MIB:.0f} MiB after {GIB:g} GiB from 4 clients")
