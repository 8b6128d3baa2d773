"""Servers under test and a raw NBD client, for the system tests. Python 3.11, standard library.

Databases are in a directory, or under the URL in ZEROFS_TEST_STORE, which `with_s3` sets."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

PAGE = 4096

# A test that takes too long is ended by a signal: what it started ends with it.
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"ended by signal {number}"))


class Server:
    """One `zerofs serve` on a database of its own, with its files in a directory."""

    def __init__(self, binary, directory, volume="data:64MiB", memory="64MiB", extra=(), url=None, environment=None):
        self.binary, self.directory, self.extra = binary, directory, list(extra)
        self.url, self.environment = url, environment
        self.volume, self.memory = volume, memory
        self.store = os.path.join(directory, "store")
        self.key = os.path.join(directory, "key")
        self.socket = os.path.join(directory, "nbd.sock")
        self.control = os.path.join(directory, "control.sock")
        self.log = os.path.join(directory, "log")
        self.process = None

    def flags(self):
        return ["--store", self.store_url(), "--key-file", self.key, "--control", self.control]

    def store_url(self):
        if self.url:
            return self.url
        base = os.environ.get("ZEROFS_TEST_STORE")
        return f"{base}/{os.path.basename(self.directory)}" if base else "file://" + self.store

    def start(self, *more, wait=True):
        command = [self.binary, "serve", *self.flags(), "--init", "--volume", self.volume,
                   "--nbd=unix:" + self.socket, "--memory", self.memory, *self.extra, *more]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self.environment)
        self.output = []
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        for line in self.process.stdout:
            if line == b"ready\n":
                return
            self.output.append(line.decode())
        raise RuntimeError(f"the server did not start, status {self.process.wait()}:\n{self.tail()}")

    def tail(self):
        with open(self.log, errors="replace") as log:
            return "".join(log.readlines()[-15:])

    def kill(self):
        self.process.kill()
        self.finish()

    def stop(self, timeout=60):
        self.process.send_signal(signal.SIGTERM)
        return self.finish(timeout)

    def finish(self, timeout=60):
        status = self.process.wait(timeout)
        self.process.stdout.close()
        return status

    def command(self, *arguments):
        return subprocess.run([self.binary, *arguments, *self.flags()], capture_output=True, text=True,
                              timeout=120, env=self.environment)

    def status(self):
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def uri(self, name="data"):
        return f"nbd+unix:///{name}?socket={self.socket}"


class Directory:
    """A temporary directory, and the processes that run in it, gone at the end."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="zerofs-test-")
        self.servers = []
        return self

    def server(self, binary, **options):
        server = Server(binary, self.path, **options)
        self.servers.append(server)
        return server

    def __exit__(self, kind, value, trace):
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.kill()
            if kind is not None:
                print(server.tail(), file=sys.stderr)
        shutil.rmtree(self.path, ignore_errors=True)


def receive_exactly(connection, count):
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise ConnectionError("the server closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES = range(7)
FUA, NO_HOLE = 1, 2


class Client:
    """A raw NBD connection with simple replies; requests may be pipelined."""

    def __init__(self, path, export="data", timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        magic, option, flags = struct.unpack(">QQH", receive_exactly(self.socket, 18))
        assert magic == 0x4E42444D41474943 and option == 0x49484156454F5054 and flags == 3
        name = export.encode()
        payload = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">I", 3) +
                            struct.pack(">QII", 0x49484156454F5054, 7, len(payload)) + payload)
        while True:
            _, _, kind, length = struct.unpack(">QIII", receive_exactly(self.socket, 20))
            body = receive_exactly(self.socket, length)
            if kind == 1:
                break
            if kind & 0x80000000:
                raise ConnectionError(f"GO refused: {kind:#x} {body}")
            if body[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", body[2:12])

    def send(self, command, cookie, offset=0, length=0, flags=0, payload=b""):
        self.socket.sendall(
            struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload)

    def reply(self):
        magic, error, cookie = struct.unpack(">IIQ", receive_exactly(self.socket, 16))
        assert magic == 0x67446698, hex(magic)
        return cookie, error

    def read(self, offset, length):
        self.send(READ, 1, offset, length)
        _, error = self.reply()
        if error:
            raise OSError(error, "read")
        return receive_exactly(self.socket, length)

    def call(self, command, offset=0, length=0, flags=0, payload=b""):
        self.send(command, 1, offset, length, flags, payload)
        return self.reply()[1]

    def close(self):
        self.socket.close()


def wait_until(condition, timeout=30, what="condition"):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


def binary_from_argv():
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} /path/to/zerofs")
    return os.path.abspath(sys.argv[1])
