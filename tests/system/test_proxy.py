#!/usr/bin/python3
"""The faulting proxy itself, between a plain HTTP client and server of this file: what it promises to
do to a connection it does, and nothing else; what it counts is what was sent.

Usage: test_proxy.py /path/to/zerofs   (the proxy is found beside it)"""

import http.client
import socket
import threading
import time

from harness import binary_from_argv
from s3 import Proxy, proxy_program

BODY = bytes(range(256)) * 1024  # 256 KiB


class Upstream(threading.Thread):
    """Answers GET with BODY, PUT with 200; remembers what was asked."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.seen = []
        self.connections = 0
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb")
        try:
            while line := stream.readline():
                method = line.split()[0].decode()
                length = 0
                while (header := stream.readline()) != b"\r\n":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                body = stream.read(length)
                if len(body) < length:
                    break
                self.seen.append((method, len(body)))
                answer = BODY if method == "GET" else b""
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        except OSError:
            pass
        connection.close()


def request(port, method, body=None, timeout=5):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        client.request(method, "/x", body)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def outcome(port, method, body=None, timeout=5):
    try:
        return request(port, method, body, timeout)
    except http.client.IncompleteRead:
        return "truncated"
    except (ConnectionError, http.client.BadStatusLine):
        return "reset"
    except TimeoutError:
        return "timeout"


def brief(result):
    return result if isinstance(result, str) else result[0]


def faults(proxy, upstreams):
    for name, method, body, expected in (
            ("reset", "GET", None, {"reset"}),
            ("reset", "PUT", BODY, {"reset"}),
            ("truncate", "GET", None, {"truncated"}),
            ("stall", "GET", None, {"timeout"}),
            ("drop", "GET", None, {"reset"}),
            ("drop", "PUT", BODY, {"reset"})):
        proxy.set(**{name: 1})
        seen = {brief(outcome(proxy.port, method, body, timeout=0.3)) for _ in range(6)}
        assert seen <= expected, (name, method, seen)
        proxy.clear()
        assert request(proxy.port, "GET") == (200, BODY), f"after {name} all is well"
    before = sum(len(u.seen) for u in upstreams)
    proxy.set(drop=1)
    assert outcome(proxy.port, "PUT", b"once") == "reset"
    assert sum(len(u.seen) for u in upstreams) == before + 1, "drop: the server did what was asked"
    proxy.clear()


def answers(proxy, upstreams, directory):
    with open(directory + "/answer", "wb") as file:
        file.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever")
    proxy.set(answer_file=directory + "/answer", answer=1, method="PUT")
    before = sum(len(u.seen) for u in upstreams)
    assert request(proxy.port, "PUT", BODY) == (403, b"never")
    assert sum(len(u.seen) for u in upstreams) == before, "the server sees nothing of it"
    assert request(proxy.port, "GET") == (200, BODY), "another method is left alone"
    proxy.clear()


def counts(proxy):
    proxy.zero()
    client = http.client.HTTPConnection("127.0.0.1", proxy.port)
    for _ in range(5):
        client.request("GET", "/a")
        client.getresponse().read()
        client.request("PUT", "/b", BODY)
        client.getresponse().read()
    client.close()
    stats = proxy.stats()
    assert stats["requests"] == {"GET": 5, "PUT": 5} and stats["responses"] == {"200": 10}, stats
    assert stats["down"] > 5 * len(BODY) and stats["up"] > 5 * len(BODY) and stats["connections"] == 1, stats
    assert proxy.trace() == ["GET /a HTTP/1.1", "PUT /b HTTP/1.1"] * 5


def outages(proxy):
    proxy.set(outage="reset")
    assert outcome(proxy.port, "GET") == "reset"
    proxy.set(outage="silent")
    assert outcome(proxy.port, "GET", timeout=0.3) == "timeout"
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    client.request("GET", "/x")
    threading.Timer(0.3, lambda: proxy.set(outage="off")).start()
    begin = time.monotonic()
    assert client.getresponse().read() == BODY and time.monotonic() - begin >= 0.25, "waits, then passes"
    client.close()


def timing(proxy):
    proxy.set(delay_ms=25)
    client = http.client.HTTPConnection("127.0.0.1", proxy.port)
    client.request("PUT", "/x", b"warm")
    client.getresponse().read()
    times = []
    for _ in range(10):
        begin = time.monotonic()
        client.request("PUT", "/x", b"x")
        client.getresponse().read()
        times.append(time.monotonic() - begin)
    assert 0.050 <= min(times) and sorted(times)[5] < 0.060, times
    proxy.clear()
    proxy.set(rate_mb=20)
    begin = time.monotonic()
    threads = [threading.Thread(target=lambda: [request(proxy.port, "GET") for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = 40 * len(BODY) / 1e6 / (time.monotonic() - begin)
    assert 17 <= rate <= 20.5, f"{rate:.1f} MB/s through a link of 20"
    proxy.clear()
    return sorted(times)[5] * 1000, rate


def throughput(program):
    """A stream of 2 GiB that is no HTTP."""
    total = 2 << 30
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        connection.recv(1)
        block = memoryview(bytes(1 << 20))
        for _ in range(total >> 20):
            connection.sendall(block)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    with Proxy(program, ["127.0.0.1:%d" % listener.getsockname()[1]]) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        client.sendall(b"\0")
        block = bytearray(1 << 20)
        begin = time.monotonic()
        got = 0
        while count := client.recv_into(block):
            got += count
        assert got == total, got
        return total / 1e9 / (time.monotonic() - begin)


if __name__ == "__main__":
    import tempfile
    program = proxy_program(binary_from_argv())
    upstreams = [Upstream(), Upstream()]
    with Proxy(program, [u.address for u in upstreams]) as proxy, tempfile.TemporaryDirectory() as directory:
        proxy.set(seed=1)
        counts(proxy)
        faults(proxy, upstreams)
        answers(proxy, upstreams, directory)
        outages(proxy)
        round_trip, rate = timing(proxy)
        assert all(u.connections > 5 for u in upstreams), "connections spread over the upstreams"
    print(f"RESULT faults, outages, answers and counts as promised; 2 x 25 ms takes {round_trip:.1f} ms; a link of "
          f"20 MB/s carries {rate:.1f}; uncapped {throughput(program):.2f} GB/s")
