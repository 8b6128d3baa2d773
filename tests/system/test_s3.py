#!/usr/bin/python3
"""What S3 is asked, how often, and what happens when it misbehaves. Goal: the request counts that the
design promises, a clear message for each wrong setting, and survival of outages. Method: a
throw-away server behind the proxy, which counts.

Usage: test_s3.py /path/to/zerofs [TEST…]   IDLE_SECONDS=600 measures idleness for longer."""

import datetime
import os
import random
import re
import signal
import sys
import threading
import time
import urllib.request

from harness import FLUSH, PAGE, WRITE, Client, Directory, Server, binary_from_argv, wait_until
from s3 import Proxy, S3Server, proxy_program
from stamped import stamp

IDLE_SECONDS = float(os.environ.get("IDLE_SECONDS", "60"))
ROUND_TRIP_MS = 25


class World:
    """A server under test on a prefix of its own, behind the proxy."""

    def __init__(self, binary, s3, proxy, directory):
        self.binary, self.s3, self.proxy, self.directory = binary, s3, proxy, directory
        self.count = 0

    def server(self, volume="data:256MiB", memory="256MiB", extra=(), url=None, **environment):
        self.count += 1
        path = f"{self.directory.path}/{self.count}"
        os.mkdir(path)
        environment = self.s3.environment(**{"AWS_ENDPOINT_URL_S3": self.proxy.endpoint, **environment})
        server = Server(self.binary, path, volume=volume, memory=memory, extra=extra, url=url or self.s3.url(),
                        environment=environment)
        self.directory.servers.append(server)
        return server

    def total(self):
        return self.proxy.stats()["total"]


def one_put_per_flush(world):
    """One 4 KiB write + FLUSH = exactly one PUT and nothing else, counted before the server."""
    server = world.server().start()
    client = Client(server.socket)
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 2)) == 0 and client.call(FLUSH) == 0
    for number in range(3, 43):
        world.proxy.zero()
        page = number * 7
        assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, number)) == 0
        assert client.call(FLUSH) == 0
        stats = world.proxy.stats()
        assert stats["requests"] == {"PUT": 1} and stats["responses"] == {"200": 1}, (stats, world.proxy.trace())
    world.proxy.zero()
    for _ in range(20):
        assert client.call(FLUSH) == 0
    assert world.total() == 0, "a flush with nothing to flush asks nothing"
    client.close()
    assert server.stop() == 0
    return "40 x (4 KiB write + FLUSH) = 40 PUTs and nothing else"


def cold_reads(world):
    """A cold random 4 KiB read = one GET, once the index is cached."""
    mib = 1 << 20
    server = world.server().start()
    client = Client(server.socket)
    for at in range(0, 64 * mib, mib):
        data = b"".join(stamp(at // PAGE + i, 2 * (at // PAGE + i) + 2) for i in range(mib // PAGE))
        assert client.call(WRITE, at, mib, 0, data) == 0
    client.close()
    assert server.stop() == 0
    server.start()
    client = Client(server.socket)

    def read_scattered(begin):
        count = 0
        for page in range(begin, 64 * mib // PAGE, 517):
            assert client.read(page * PAGE, PAGE) == stamp(page, 2 * page + 2), page
            count += 1
        return count

    read_scattered(100)  # the index comes into memory
    world.proxy.zero()
    hedges = server.status()["s3_hedges"]
    count = read_scattered(300)
    hedges = server.status()["s3_hedges"] - hedges  # second tries of slow ones, within a budget
    stats = world.proxy.stats()
    assert stats["requests"] == {"GET": count + hedges} and hedges <= count / 8, (count, hedges, stats)
    client.close()
    assert server.stop() == 0
    return f"{count} cold random 4 KiB reads = {count} GETs"


def idle(world):
    """An idle hour is at most ten requests: none at all in a window."""
    server = world.server().start()
    client = Client(server.socket)
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 2)) == 0 and client.call(FLUSH) == 0
    time.sleep(6)  # the age of a batch, and of connections
    world.proxy.zero()
    time.sleep(IDLE_SECONDS)
    stats = world.proxy.stats()
    assert stats["total"] <= IDLE_SECONDS / 360, (stats, world.proxy.trace())
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 4)) == 0 and client.call(FLUSH) == 0
    client.close()
    assert server.stop() == 0
    return f"{stats['total']} requests in {IDLE_SECONDS:.0f} s of idleness"


def clean_opening(world):
    """Opening a cleanly closed database takes at most ten requests plus lazy table tails."""
    server = world.server().start()
    client = Client(server.socket)
    for page in range(2000):
        assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, 2 * page + 2)) == 0
    client.close()
    assert server.stop() == 0
    world.proxy.zero()
    server.start()
    trace = world.proxy.trace()
    tails = [line for line in trace if "/sst/" in line]
    assert len(trace) - len(tails) <= 10 and len(tails) <= 2, trace
    client = Client(server.socket)
    assert client.read(1999 * PAGE, PAGE) == stamp(1999, 4000)
    client.close()
    assert server.stop() == 0
    return f"opening: {len(trace) - len(tails)} requests and {len(tails)} table tails"


def replay(world):
    """1,000 log objects replay in at most 25 round trips of time. By the log's clock, from before
    the commit of the new term to the fence at the log's end. The round trip is a long one, beside
    which the server's own time for a thousand GETs on a busy machine is small."""
    server = world.server(memory="512MiB").start()
    client = Client(server.socket)
    for number in range(1000):
        page = number * 3 % 4096
        assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, number + 1)) == 0
        assert client.call(FLUSH) == 0
    client.close()
    server.kill()
    round_trip = 8 * ROUND_TRIP_MS
    world.proxy.set(delay_ms=round_trip / 2)
    world.proxy.zero()
    server.start()
    stats = world.proxy.stats()
    world.proxy.clear()
    log = open(server.log, errors="replace").read()
    begun = re.findall(r"(\S+) I taking over from", log)[-1]
    ended, count = re.findall(r"(\S+) I term \d+ of an earlier owner ends at .*: (\d+) to replay", log)[-1]
    assert int(count) >= 1000, count
    seconds = (datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(begun)).total_seconds()
    trips = seconds * 1000 / round_trip
    client = Client(server.socket)
    for number in (999, 998, 500):
        page = number * 3 % 4096
        assert client.read(page * PAGE, PAGE) == stamp(page, number + 1)
    client.close()
    assert server.stop() == 0
    assert trips <= 25, trips
    return f"replay of {count} log objects took {trips:.1f} round trips of {round_trip:.0f} ms; {stats['total']} requests"


def outage(world):
    """The server is gone, then silent: reads of cached data and buffered writes go on, flushes wait,
    status and log say so; when it is back, everything goes on by itself."""
    server = world.server().start()
    client = Client(server.socket, timeout=120)
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 2)) == 0 and client.call(FLUSH) == 0
    waits = []
    for number, kind in ((4, "reset"), (6, "silent")):
        world.proxy.set(outage=kind)
        assert client.call(WRITE, 0, PAGE, 0, stamp(0, number)) == 0
        flusher = Client(server.socket, timeout=120)
        flusher.send(FLUSH, 9)
        wait_until(lambda: server.status()["store_failing_seconds"] > 6, 60, "status tells of the outage")
        assert client.read(0, PAGE) == stamp(0, number), "reads of cached data go on"
        text = server.command("status").stdout
        assert re.search(r"S3 unreachable for \d+ s, 4 KiB waiting", text), text
        world.proxy.set(outage="off")
        begin = time.monotonic()
        assert flusher.reply() == (9, 0)
        waits.append(time.monotonic() - begin)
        flusher.close()
        wait_until(lambda: server.status()["store_failing_seconds"] == 0, 30, "status tells of the end")
    log = open(server.log, errors="replace").read()
    assert re.search(r"S3 unreachable for \d+ s, 4 KiB waiting", log), log
    client.close()
    server.kill()
    server.start()
    client = Client(server.socket)
    assert client.read(0, PAGE) == stamp(0, 6)
    client.close()
    assert server.stop() == 0
    return f"outages survived; the waiting flush was answered {waits[0]:.1f} s and {waits[1]:.1f} s after their ends"


def stopped_gateway(world):
    """One of two gateways hangs (SIGSTOP): requests go on over the other."""
    if not world.s3.directory:
        return "skipped: not our server"
    server = world.server().start()
    client = Client(server.socket, timeout=120)
    slowest = 0.0
    for gateway in (0, 1):
        pid = world.s3.gateway_pid(gateway)
        os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(2 + gateway, 42, 2):
                page = number * 11
                begin = time.monotonic()
                assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, number)) == 0
                assert client.call(FLUSH) == 0
                slowest = max(slowest, time.monotonic() - begin)
        finally:
            os.kill(pid, signal.SIGCONT)
    client.close()
    server.kill()
    server.start()
    client = Client(server.socket)
    for number in range(2, 42):
        assert client.read(number * 11 * PAGE, PAGE) == stamp(number * 11, number)
    client.close()
    assert server.stop() == 0
    assert slowest < 30, slowest
    return f"either gateway stopped is survived; the slowest of 40 flushes took {slowest:.1f} s"


def neighbours(world):
    """Several servers on separate prefixes of one bucket, at once; one prefix begins as another."""
    base = world.s3.url()
    servers = [world.server(volume="data:32MiB", memory="64MiB", url=base + tail).start()
               for tail in ("/a", "/ab", "/a/b", "")]
    failures = []

    def work(index, server):
        try:
            client = Client(server.socket)
            for number in range(200):
                page = number * 13 % 8192
                assert client.call(WRITE, page * PAGE, PAGE, 0, stamp(page, number * 10 + index + 1)) == 0
                if number % 10 == 9:
                    assert client.call(FLUSH) == 0
            client.close()
        except Exception as problem:
            failures.append(problem)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(servers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    for server in servers[:2]:
        server.kill()
    for server in servers[2:]:
        assert server.stop() == 0
    for index, server in enumerate(servers):
        server.start()
        client = Client(server.socket)
        for number in range(200):
            page = number * 13 % 8192
            assert client.read(page * PAGE, PAGE) == stamp(page, number * 10 + index + 1), (index, number)
        client.close()
        assert server.stop() == 0
    return "4 servers on prefixes of one bucket do not meet"


def metrics(world):
    """The numbers that Prometheus gets are those that the proxy counted."""
    server = world.server(extra=["--metrics", "0"]).start()
    address = re.search(r"metrics: (http://\S+)", "".join(server.output)).group(1)

    def scrape():
        text = urllib.request.urlopen(address, timeout=5).read().decode()
        values = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def puts(values):
        return sum(value for name, value in values.items()
                   if name.startswith("zerofs_s3_requests_total") and 'operation="put"' in name)

    client = Client(server.socket)
    before = scrape()
    world.proxy.zero()
    for number in range(2, 52):
        assert client.call(WRITE, number * PAGE, PAGE, 0, stamp(number, number)) == 0
        assert client.call(FLUSH) == 0
    after = scrape()
    counted = world.proxy.stats()["requests"]["PUT"]
    assert puts(after) - puts(before) == counted == 50, (puts(after) - puts(before), counted)
    dollars = after["zerofs_s3_dollars_total"] - before["zerofs_s3_dollars_total"]
    assert abs(dollars - 50 * 0.005 / 1000) < 1e-9, dollars
    assert after["zerofs_store_failing_seconds"] == 0 and after["zerofs_nbd_connections"] == 1
    slowest = max(value for value in (time_of(scrape) for _ in range(20)))
    secret = world.s3.secret_key
    text = urllib.request.urlopen(address).read().decode()
    assert secret not in text and world.s3.access_key not in text
    client.close()
    assert server.stop() == 0
    return f"50 PUTs are 50 in the metrics, ${dollars:.6f}; {len(after)} samples, scraped in {slowest * 1000:.0f} ms"


def time_of(call):
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def answer_file(world, head, body=b""):
    path = f"{world.directory.path}/answer-{random.randrange(1 << 40)}"
    with open(path, "wb") as file:
        file.write(head.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return path


def error_body(code, message):
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()


def bad_input(world):
    """Wrong settings and strange servers: a clear message each, soon, and no crash."""
    good = world.server()
    good.start()
    assert good.stop() == 0
    proxied = world.proxy.endpoint
    xml = "HTTP/1.1 {}\r\nContent-Type: application/xml"
    cases = [
        ("wrong secret", {"AWS_SECRET_ACCESS_KEY": "x" * 40}, None, r"secret|signature|SignatureDoesNotMatch"),
        ("unknown key", {"AWS_ACCESS_KEY_ID": "NOSUCHKEY"}, None, r"access key|InvalidAccessKeyId"),
        ("no keys", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, None, r"credentials"),
        ("wrong bucket", {"url": "s3://no-such-bucket-here/x"}, None, r"bucket"),
        ("nobody listens", {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, None, r"connect|unreachable"),
        ("no such host", {"AWS_ENDPOINT_URL_S3": "http://no-such-host.invalid"}, None, r"resolve|connect|host"),
        ("endpoint is no URL", {"AWS_ENDPOINT_URL_S3": "not a url"}, None, r"endpoint"),
        ("wrong region", {}, (xml.format("400 Bad Request"), error_body(
            "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'")), r"region"),
        ("expired token", {"AWS_SESSION_TOKEN": "old"}, (xml.format("400 Bad Request"), error_body(
            "ExpiredToken", "The provided token has expired.")), r"expired"),
        ("clock off", {}, (xml.format("403 Forbidden"), error_body(
            "RequestTimeTooSkewed", "The difference between the request time and the server's time is too large")),
         r"clock"),
        ("HTML", {}, ("HTTP/1.1 200 OK\r\nContent-Type: text/html", b"<html><body>Welcome to nginx</body></html>"),
         r"S3|HTML"),
        ("redirect", {}, ("HTTP/1.1 301 Moved Permanently\r\nLocation: http://other/\r\nx-amz-bucket-region: eu-west-1",
                          error_body("PermanentRedirect", "use the endpoint eu-west-1")), r"redirect|region"),
    ]
    if world.s3.other:
        key, secret = world.s3.other
        cases.append(("another's bucket", {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}, None,
                      r"AccessDenied|denied|permission"))
    slowest = ("", 0.0)
    for name, changes, answer, expected in cases:
        changes = dict(changes)
        server = world.server(url=changes.pop("url", good.url), **{"AWS_ENDPOINT_URL_S3": proxied, **changes})
        server.key = good.key
        if answer:
            world.proxy.set(answer_file=answer_file(world, *answer), answer=1)
        begin = time.monotonic()
        server.start(wait=False)
        status = server.finish(60)
        seconds = time.monotonic() - begin
        world.proxy.clear()
        text = server.tail()
        assert status in (1, 4), f"{name}: status {status}\n{text}"
        assert re.search(expected, text, re.IGNORECASE), f"{name}: the message does not say it:\n{text}"
        assert world.s3.secret_key not in text and "x" * 40 not in text, f"{name}: a secret is in the log"
        if seconds > slowest[1]:
            slowest = (name, seconds)
    return f"{len(cases)} bad settings and servers: a message each; the slowest to tell ({slowest[0]}) took {slowest[1]:.1f} s"


def clock_off(world):
    """The clock is an hour behind: corrected from the server's Date, and said once."""
    server = world.server(LD_PRELOAD="/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", FAKETIME="-1h",
                          FAKETIME_DONT_FAKE_MONOTONIC="1")
    server.start()
    client = Client(server.socket)
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 2)) == 0 and client.call(FLUSH) == 0
    client.close()
    assert server.stop() == 0
    log = open(server.log, errors="replace").read()
    assert "clock" in log, log
    return "a clock that is an hour off is corrected, and the log says so"


def denied_in_mid_run(world):
    """403 in mid-run (a key withdrawn): writes wait, the log says why, nothing is lost when it is back."""
    server = world.server().start()
    client = Client(server.socket, timeout=120)
    assert client.call(WRITE, 0, PAGE, 0, stamp(0, 2)) == 0 and client.call(FLUSH) == 0
    world.proxy.set(answer_file=answer_file(world, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml",
                                            error_body("AccessDenied", "Access Denied by a new policy")), answer=1)
    world.proxy.zero()
    assert client.call(WRITE, PAGE, PAGE, 0, stamp(1, 4)) == 0
    client.send(FLUSH, 5)
    time.sleep(6)
    asked = world.total()
    assert asked < 200, f"{asked} requests in 6 s: a loop without back-off"
    assert server.process.poll() is None
    log = open(server.log, errors="replace").read()
    assert "AccessDenied" in log or "Access Denied" in log, log
    assert server.status()["store_failing_seconds"] > 3
    world.proxy.clear()
    assert client.reply() == (5, 0)
    client.close()
    server.kill()
    server.start()
    client = Client(server.socket)
    assert client.read(0, PAGE) == stamp(0, 2) and client.read(PAGE, PAGE) == stamp(1, 4)
    client.close()
    assert server.stop() == 0
    return f"403 in mid-run: {asked} requests in 6 s, flush answered when the permission was back"


def lying_store(world):
    """A store that answers 200 to every create is refused, at init and by `store check`."""
    world.proxy.set(answer_file=answer_file(world, 'HTTP/1.1 200 OK\r\nETag: "1"'), answer=1, method="PUT")
    server = world.server()
    checked = server.command("store", "check")
    server.start(wait=False)
    status = server.finish(60)
    world.proxy.clear()
    assert checked.returncode == 1 and "unsafe" in checked.stderr, checked
    assert status == 1 and "unsafe" in server.tail(), server.tail()
    checked = server.command("store", "check")
    assert checked.returncode == 0 and "can hold a database" in checked.stdout, checked
    return "a store that ignores If-None-Match is refused"


TESTS = [one_put_per_flush, cold_reads, clean_opening, replay, metrics, neighbours, lying_store, bad_input, clock_off,
         denied_in_mid_run, outage, stopped_gateway, idle]

if __name__ == "__main__":
    binary = binary_from_argv()
    chosen = sys.argv[2:]
    with S3Server() as s3, Proxy(proxy_program(binary), s3.hosts) as proxy, Directory() as directory:
        world = World(binary, s3, proxy, directory)
        failed = 0
        for test in TESTS:
            if chosen and test.__name__ not in chosen:
                continue
            begin = time.monotonic()
            try:
                print(f"RESULT {test(world)} ({time.monotonic() - begin:.1f} s)", flush=True)
            except Exception as problem:
                if chosen:
                    raise
                failed += 1
                print(f"FAILED {test.__name__}: {type(problem).__name__} {str(problem)[:2000]}", flush=True)
                proxy.clear()
    sys.exit(1 if failed else 0)
