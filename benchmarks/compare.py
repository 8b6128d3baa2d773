#!/usr/bin/python3
"""This server against `nbdkit memory` and `qemu-nbd`, alternately in one run, as ratios.

compare.py --build DIR [--only SECTION,...] [--rounds N] [--seconds S]
Sections: reads, writes, sustained, large, flush, durable, discard. Standard library only."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "system"))
from harness import FLUSH, TRIM, WRITE, Client, Server  # noqa: E402

GIB = 1 << 30
REGION = GIB
rows = []


def report(what, ours, theirs):
    print(f"{what:<44} {ours:>12.2f} {theirs:>12.2f}        ratio {ours / theirs:6.2f}", flush=True)


def row(what, ours, theirs, limit, at_least=True, unit=""):
    ratio = ours / theirs if theirs else 0
    good = ratio >= limit if at_least else ratio <= limit
    sign = ">=" if at_least else "<="
    rows.append((what, ours, theirs, ratio, f"{sign} {limit}", "ok" if good else "MISS"))
    print(f"{what:<44} {ours:>12.2f} {theirs:>12.2f} {unit:<6} ratio {ratio:6.2f}  {sign} {limit:<5} "
          f"{'ok' if good else 'MISS'}", flush=True)


def cpu_us(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def cpu_idle_seconds():
    with open("/proc/stat") as f:
        return int(f.readline().split()[4]) / os.sysconf("SC_CLK_TCK")


class Kit:
    """nbdkit memory on a unix socket."""

    def __init__(self, directory):
        self.socket = directory + "/kit.sock"
        self.process = subprocess.Popen(["nbdkit", "--foreground", "-U", self.socket, "memory", "2G"])
        while not os.path.exists(self.socket):
            time.sleep(0.01)
        self.pid, self.name = self.process.pid, ""
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Qemu:
    """qemu-nbd with a RAM-backed image: one more server that people use, reported only."""

    def __init__(self, directory):
        self.image = "/dev/shm/" + os.path.basename(directory) + ".raw"
        with open(self.image, "wb") as f:
            f.truncate(2 * GIB)
        self.socket = directory + "/qemu.sock"
        self.process = subprocess.Popen(["qemu-nbd", "--format=raw", "--persistent", "--socket=" + self.socket,
                                         "--export-name=", self.image])
        while not os.path.exists(self.socket):
            time.sleep(0.01)
        self.pid, self.name = self.process.pid, ""
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def stop(self):
        self.process.terminate()
        self.process.wait()
        os.unlink(self.image)


class Bench:
    def __init__(self, args):
        self.args = args
        self.build = os.path.abspath(args.build)
        self.directory = tempfile.mkdtemp(prefix="zerofs-bench-", dir=args.directory)
        self.load = self.build + "/benchmarks/nbd_load"
        self.kit = Kit(self.directory)
        self.server = None

    def start_server(self, volume="data:2GiB", memory="6GiB"):
        self.stop_server()
        shutil.rmtree(self.directory + "/store", ignore_errors=True)
        self.server = Server(self.build + "/tools/zerofs", self.directory, volume=volume, memory=memory,
                             extra=["--log-level", "warn"])
        self.server.start()
        self.server.pid, self.server.name = self.server.process.pid, "data"
        return self.server

    def stop_server(self):
        if self.server is not None:
            self.server.process.send_signal(15)
            self.server.finish(300)
        self.server = None

    def close(self):
        self.stop_server()
        self.kit.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def own(self, target, **options):
        command = [self.load, "--socket", target.socket, "--export", target.name, "--pid", str(target.pid),
                   "--region", str(REGION)]
        for key, value in options.items():
            command += ["--" + key.replace("_", "-"), str(value)]
        return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    def fio(self, target, **options):
        uri = target.uri if isinstance(target.uri, str) else target.uri()
        out = self.directory + "/fio.json"
        command = ["fio", "--name=bench", "--ioengine=nbd", "--uri=" + uri, f"--size={REGION}", "--bs=4k",
                   "--output-format=json", "--output=" + out]
        command += [f"--{key}={value}" for key, value in options.items()]
        before = cpu_us(target.pid)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.directory)
        job = json.load(open(out))["jobs"][0]
        side = job["read"] if job["read"]["total_ios"] else job["write"]
        percentiles = side["clat_ns"]["percentile"]
        return {"iops": side["iops"], "mb_per_s": side["bw_bytes"] / 1e6,
                "cpu_us_per_op": (cpu_us(target.pid) - before) / side["total_ios"],
                "p50_us": percentiles["50.000000"] / 1e3, "p99_us": percentiles["99.000000"] / 1e3}

    def alternate(self, call, rounds=None, between=lambda: None):
        """Medians of both servers over alternating rounds."""
        ours, theirs = [], []
        for _ in range(rounds or self.args.rounds):
            theirs.append(call(self.kit))
            between()
            ours.append(call(self.server))
            between()
        def median(results):
            return {key: statistics.median(r[key] for r in results) for key in results[0]}
        return median(ours), median(theirs)

    def wait_clean(self):
        client = Client(self.server.socket)
        assert client.call(FLUSH) == 0
        client.close()

    # ---- sections

    def fill(self):
        for target in (self.kit, self.server):
            self.own(target, op="write", block=1 << 20, queue_depth=4, bytes=REGION)
        self.wait_clean()

    def reads(self):
        self.start_server()
        self.fill()
        seconds = self.args.seconds
        timed = {"time_based": 1, "runtime": seconds}
        ours, theirs = self.alternate(lambda t: self.fio(t, rw="randread", iodepth=32, **timed))
        row("fio randread 4k qd32, IOPS", ours["iops"], theirs["iops"], 1.15)
        row("fio randread 4k qd32, CPU us/op", ours["cpu_us_per_op"], theirs["cpu_us_per_op"], 0.65, False)
        print(f"    p50 {ours['p50_us']:.0f}/{theirs['p50_us']:.0f} us, p99 {ours['p99_us']:.0f}/{theirs['p99_us']:.0f} us")
        ours, theirs = self.alternate(lambda t: self.own(t, op="randread", queue_depth=32, seconds=seconds))
        row("own randread 4k qd32, IOPS", ours["iops"], theirs["iops"], 2)
        row("own randread 4k qd32, CPU us/op", ours["cpu_us_per_op"], theirs["cpu_us_per_op"], 0.4, False)
        print(f"    p50 {ours['p50_us']:.0f}/{theirs['p50_us']:.0f} us, p99 {ours['p99_us']:.0f}/{theirs['p99_us']:.0f} us")
        qemu = Qemu(self.directory)
        try:
            self.own(qemu, op="write", block=1 << 20, queue_depth=4, bytes=REGION)
            ours = self.fio(self.server, rw="randread", iodepth=32, **timed)
            theirs = self.fio(qemu, rw="randread", iodepth=32, **timed)
            report("  against qemu-nbd, IOPS", ours["iops"], theirs["iops"])
            report("  against qemu-nbd, CPU us/op", ours["cpu_us_per_op"], theirs["cpu_us_per_op"])
        finally:
            qemu.stop()
        ours, theirs = self.alternate(lambda t: self.fio(t, rw="randread", iodepth=1, **timed))
        row("fio randread 4k qd1, IOPS", ours["iops"], theirs["iops"], 1)
        ours, theirs = self.alternate(lambda t: self.own(t, op="randread", queue_depth=1, seconds=seconds))
        row("own randread 4k qd1, IOPS", ours["iops"], theirs["iops"], 1)

    def large(self):
        self.start_server()
        self.fill()
        timed = {"time_based": 1, "runtime": self.args.seconds, "iodepth": 4}
        ours, theirs = self.alternate(lambda t: self.fio(t, rw="read", bs="1m", **timed))
        row("fio read 1 MiB qd4, MB/s", ours["mb_per_s"], theirs["mb_per_s"], 1)

    def writes(self):
        self.start_server()
        self.fill()
        def burst(extra):
            return self.alternate(lambda t: self.fio(t, rw="randwrite", iodepth=32, io_size=REGION, **extra),
                                  between=self.wait_clean)
        ours, theirs = burst({})
        row("fio randwrite 4k qd32, 1 GiB burst, IOPS", ours["iops"], theirs["iops"], 0.9)
        ours, theirs = burst({"buffer_compress_percentage": 50})
        report("  the same, 50 % compressible", ours["iops"], theirs["iops"])

    def sustained(self):
        self.start_server()
        self.fill()
        timed = {"time_based": 1, "runtime": self.args.sustained, "iodepth": 32, "rw": "randwrite"}
        ours, theirs = self.alternate(lambda t: self.fio(t, **timed), rounds=1, between=self.wait_clean)
        row(f"fio randwrite 4k qd32, {self.args.sustained} s, IOPS", ours["iops"], theirs["iops"], 0.45)
        timed["buffer_compress_percentage"] = 50
        ours, theirs = self.alternate(lambda t: self.fio(t, **timed), rounds=1, between=self.wait_clean)
        report("  the same, 50 % compressible", ours["iops"], theirs["iops"])

    def flush(self):
        server = self.start_server()
        raw_dir = self.directory + "/raw"
        os.makedirs(raw_dir, exist_ok=True)
        client = Client(server.socket)
        client.call(WRITE, 0, 4096, 0, bytes(4096))
        client.call(FLUSH)
        ours, raws = [], []
        for _ in range(5):
            before = sum(len(files) for _, _, files in os.walk(server.store))
            times = []
            for i in range(200):
                begin = time.perf_counter()
                client.send(WRITE, 1, i * 4096, 4096, 0, os.urandom(4096))
                client.reply()
                client.send(FLUSH, 2)
                client.reply()
                times.append((time.perf_counter() - begin) * 1e6)
            ours.append(statistics.median(times))
            made = sum(len(files) for _, _, files in os.walk(server.store)) - before
            raws.append(float(subprocess.run([self.build + "/benchmarks/raw_publish", raw_dir, "4400", "200"],
                                             capture_output=True, check=True, text=True).stdout))
        client.close()
        row("write 4 KiB + FLUSH against raw publish, us", statistics.median(ours), statistics.median(raws), 1.5, False)
        row("objects created per write + FLUSH", made / 200, 1, 1, False)

    def durable(self):
        """The server writes everything once before, so that neither side pays for fresh memory."""
        ours, theirs = [], []
        total = 4 * GIB
        server = self.start_server(memory="2GiB")
        self.own(server, op="write", block=1 << 20, queue_depth=8, bytes=total)
        self.wait_clean()
        noise = "/dev/shm/" + os.path.basename(self.directory) + ".noise"
        target = self.directory + "/dd"
        try:
            with open(noise, "wb") as f:
                for _ in range(16):
                    f.write(os.urandom(64 << 20))
            for _ in range(self.args.rounds):
                idle = cpu_idle_seconds()
                begin = time.perf_counter()
                self.own(server, op="write", block=1 << 20, queue_depth=8, bytes=total)
                self.wait_clean()
                seconds = time.perf_counter() - begin
                ours.append((total / 1e6 / seconds, (cpu_idle_seconds() - idle) / seconds / os.cpu_count()))
                begin = time.perf_counter()
                for part in range(total // GIB):
                    subprocess.run(["dd", f"if={noise}", f"of={target}", "bs=16M", "oflag=direct",
                                    f"seek={part * 64}", "conv=fsync,notrunc"],
                                   check=True, stderr=subprocess.DEVNULL)
                theirs.append(total / 1e6 / (time.perf_counter() - begin))
                os.unlink(target)
        finally:
            os.unlink(noise)
        row("durable sequential write against dd, MB/s", statistics.median(o[0] for o in ours),
            statistics.median(theirs), 0.7)
        print(f"    processors idle meanwhile: {100 * statistics.median(o[1] for o in ours):.0f} %")

    def discard(self):
        server = self.start_server(volume="data:16TiB")
        for state in ("an empty", "a filled"):
            client = Client(server.socket)
            step = (1 << 32) - 4096
            total = 16 << 40
            begin = time.perf_counter()
            at = count = answered = 0
            while at < total:
                length = min(step, total - at)
                client.send(TRIM, count, at, length)
                at += length
                count += 1
                while count - answered > 256:
                    assert client.reply()[1] == 0
                    answered += 1
            while answered < count:
                assert client.reply()[1] == 0
                answered += 1
            elapsed = (time.perf_counter() - begin) * 1e3
            row(f"discard of 16 TiB on {state} volume, ms ({count} requests)", elapsed, 100, 1, False)
            client.close()
            self.own(server, op="randwrite", bytes=REGION // 2)
            self.wait_clean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--directory", default=None, help="where the store lies (default: the temporary directory)")
    parser.add_argument("--only", default="reads,large,writes,sustained,flush,durable,discard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--sustained", type=int, default=60)
    args = parser.parse_args()
    bench = Bench(args)
    try:
        for section in args.only.split(","):
            print(f"-- {section}: ours, theirs", flush=True)
            getattr(bench, section)()
    finally:
        bench.close()
    missed = [r for r in rows if r[5] == "MISS"]
    print(f"{len(rows)} figures, {len(missed)} below their mark")


if __name__ == "__main__":
    main()
