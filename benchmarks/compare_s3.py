#!/usr/bin/python3
"""This server on S3 against the bare S3 client (s3_raw), alternately in one run, as ratios.

compare_s3.py --build DIR [--only SECTION,...] [--rounds N]
Sections: flush, upload, read, random, uncapped. Everything passes the faulting proxy. First it measures
what raw reaches uncapped; then it caps the link at half of that, each way, and adds 25 ms.
Standard library only."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "system"))
from harness import FLUSH, READ, WRITE, Client, Directory, Server, receive_exactly  # noqa: E402
from s3 import Proxy, S3Server, proxy_program  # noqa: E402

MIB = 1 << 20
ROUND_TRIP_MS = 25
WARM = 400  # MiB that touch all of a server's memory once: the kernel clears a page when it is first used
OBJECT = 8 * MIB  # what raw moves at once; the engine's log objects are 16 MiB, its GETs 4 MiB
rows = []


def row(what, ours, theirs, limit, at_least=True, unit=""):
    ratio = ours / theirs if theirs else 0
    good = ratio >= limit if at_least else ratio <= limit
    sign = ">=" if at_least else "<="
    rows.append(good)
    print(f"{what:<44} {ours:>10.2f} {theirs:>10.2f} {unit:<6} ratio {ratio:5.2f}  {sign} {limit:<5} "
          f"{'ok' if good else 'MISS'}", flush=True)


def report(what, ours, theirs, unit):
    print(f"{what:<44} {ours:>10.2f} {theirs:>10.2f} {unit:<6} ratio {ours / theirs:5.2f}", flush=True)


def cpu_us(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, args, s3, proxy, directory):
        self.args, self.s3, self.proxy, self.directory = args, s3, proxy, directory
        self.build = os.path.abspath(args.build)
        self.noise = os.urandom(64 * MIB)
        self.count = 0

    def raw(self, operation, **options):
        command = [self.build + "/benchmarks/s3_raw", "--url", self.s3.url(), "--endpoint", self.proxy.endpoint,
                   "--region", self.s3.region, "--operation", operation]
        for key, value in options.items():
            command += ["--" + key.replace("_", "-"), str(value)]
        out = subprocess.run(command, env=self.s3.environment(), capture_output=True, check=True, text=True)
        return json.loads(out.stdout)

    def server(self, memory="512MiB", volume="data:2GiB"):
        self.count += 1
        path = f"{self.directory.path}/{self.count}"
        os.mkdir(path)
        server = Server(self.build + "/tools/zerofs", path, volume=volume, memory=memory,
                        extra=["--log-level", "warn"], url=self.s3.url(),
                        environment=self.s3.environment(AWS_ENDPOINT_URL_S3=self.proxy.endpoint))
        self.directory.servers.append(server)
        return server.start()

    def link(self, rate_mb=None):
        self.proxy.clear()
        if rate_mb:
            self.proxy.set(delay_ms=ROUND_TRIP_MS / 2, rate_mb=rate_mb)

    def write(self, server, begin, count, depth=16):
        """Streams `count` MiB of noise from `begin` on, then flushes; seconds, and the server's CPU."""
        client = Client(server.socket, timeout=300)
        before, begun = cpu_us(server.process.pid), time.monotonic()
        issued = done = 0
        while done < count:
            while issued < count and issued - done < depth:
                at = issued * MIB % (60 * MIB) + issued % 4096
                client.send(WRITE, issued, (begin + issued) * MIB, MIB, 0, memoryview(self.noise)[at:at + MIB])
                issued += 1
            _, error = client.reply()
            assert error == 0, error
            done += 1
        assert client.call(FLUSH) == 0
        seconds = time.monotonic() - begun
        client.close()
        return seconds, cpu_us(server.process.pid) - before

    def read(self, server, begin, count, block=512 * 1024, depth=8):
        client = Client(server.socket, timeout=300)
        before, begun = cpu_us(server.process.pid), time.monotonic()
        blocks = count * MIB // block
        issued = done = 0
        while done < blocks:
            while issued < blocks and issued - done < depth:
                client.send(READ, issued, begin * MIB + issued * block, block)
                issued += 1
            _, error = client.reply()
            assert error == 0, error
            receive_exactly(client.socket, block)
            done += 1
        seconds = time.monotonic() - begun
        client.close()
        return seconds, cpu_us(server.process.pid) - before

    # ---- sections

    def flush(self):
        """One 4 KiB write and FLUSH after the other, against raw PUTs of the same size."""
        ours, theirs = [], []
        server = self.server(memory="512MiB")
        client = Client(server.socket)
        latencies = []
        for _ in range(self.args.rounds):
            theirs.append(self.raw("put", bytes=4500, parallel=1, seconds=4)["p50_ms"])
            latencies.clear()
            for number in range(120):
                at = number * 4096
                assert client.call(WRITE, number * 7 * 4096, 4096, 0, self.noise[at:at + 4096]) == 0
                begun = time.monotonic()
                assert client.call(FLUSH) == 0
                latencies.append((time.monotonic() - begun) * 1000)
            ours.append(statistics.median(latencies))
        client.close()
        server.stop()
        row("flush of 4 KiB, p50, 25 ms away", statistics.median(ours), statistics.median(theirs), 1.15, False, "ms")

    def rates(self, name, limit):
        """Streaming upload and cold sequential read, against raw parallel PUTs and GETs."""
        puts, gets, writes, reads = [], [], [], []
        raw_put_cpu, raw_get_cpu, write_cpu, read_cpu = [], [], [], []
        total = 512
        for _ in range(self.args.rounds):
            put = self.raw("put", bytes=OBJECT, parallel=16, total=total * MIB, **{"class": "bulk"})
            puts.append(put["mib_per_second"])
            raw_put_cpu.append(put["cpu_us_per_mib"])
            server = self.server()
            self.write(server, 0, WARM)
            seconds, cpu = self.write(server, WARM, total)
            writes.append(total / seconds)
            write_cpu.append(cpu / total)
            server.stop(300)
            get = self.raw("get", bytes=OBJECT, parallel=16, objects=16, total=total * MIB,
                           **{"class": "foreground"})
            gets.append(get["mib_per_second"])
            raw_get_cpu.append(get["cpu_us_per_mib"])
            server.start()
            self.read(server, 0, WARM)
            seconds, cpu = self.read(server, WARM, total)
            reads.append(total / seconds)
            read_cpu.append(cpu / total)
            server.stop()
        median = statistics.median
        if limit:
            row(f"streaming upload{name}", median(writes), median(puts), limit, True, "MiB/s")
            row(f"cold sequential read{name}", median(reads), median(gets), limit, True, "MiB/s")
        else:
            report(f"streaming upload{name}", median(writes), median(puts), "MiB/s")
            report(f"cold sequential read{name}", median(reads), median(gets), "MiB/s")
        report(f"CPU of the upload{name}", median(write_cpu), median(raw_put_cpu), "us/MiB")
        report(f"CPU of the read{name}", median(read_cpu), median(raw_get_cpu), "us/MiB")
        return median(puts), median(gets)

    def random(self):
        """Cold random 4 KiB reads at queue depth 1."""
        server = self.server(memory="512MiB")
        self.write(server, 0, 256)
        server.stop(300)
        server.start()
        client = Client(server.socket)
        latencies = []

        def sweep(begin):
            latencies.clear()
            for page in range(begin, 256 * 256, 1031):
                begun = time.monotonic()
                client.read(page * 4096, 4096)
                latencies.append((time.monotonic() - begun) * 1000)
            return len(latencies)

        sweep(0)  # the index
        self.proxy.zero()
        hedges = server.status()["s3_hedges"]
        count = sweep(500)
        hedges = server.status()["s3_hedges"] - hedges  # second tries of slow ones, within their budget
        gets = self.proxy.stats()["requests"].get("GET", 0)
        row("GETs of cold random 4 KiB reads, hedges aside", gets - hedges, count, 1, False, "GETs")
        raw = self.raw("get", bytes=32768, parallel=1, objects=64, seconds=3, **{"class": "foreground"})
        report("cold random 4 KiB read, p50, 25 ms away", statistics.median(latencies), raw["p50_ms"], "ms")
        client.close()
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--only", default="flush,rates,random")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    only = args.only.split(",")
    program = proxy_program(os.path.abspath(args.build) + "/tools/zerofs")
    with S3Server(gigabytes=16) as s3, Proxy(program, s3.hosts) as proxy, Directory() as directory:
        bench = Bench(args, s3, proxy, directory)
        print(f"{'':<44} {'zerofs':>10} {'s3_raw':>10}")
        if "rates" in only:
            bench.link()
            put, get = bench.rates(", uncapped", None)
            rate = min(put, get) / 2
            bench.link(rate * MIB / 1e6)
            bench.rates(f", link of {rate:.0f} MiB/s, 25 ms", 0.95)
        bench.link(10_000)
        if "flush" in only:
            bench.flush()
        if "random" in only:
            bench.random()
    sys.exit(0 if all(rows) else 1)


main()
