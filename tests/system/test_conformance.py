#!/usr/bin/python3
"""The protocol, row by row: options, flags, commands, bad input, semantics. Driven by libnbd's Python
binding with its own checks switched off, and by raw sockets for what it cannot send."""

import errno
import os
import signal
import socket
import struct
import threading
import time

import nbd

from harness import (CACHE, DISC, FLUSH, FUA, NO_HOLE, PAGE, READ, TRIM, WRITE, ZEROES, Client, Directory,
                     binary_from_argv, receive_exactly)

MIB = 1 << 20
SIZE = 64 * MIB
IHAVEOPT = 0x49484156454F5054
ACK, SERVER, INFO, META = 1, 2, 3, 4
ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN, ERR_TOO_BIG = 0x80000001, 0x80000003, 0x80000006, 0x80000009

checks = 0


def check(condition, what):
    global checks
    checks += 1
    assert condition, what


class Haggler:
    """A connection that stays in negotiation."""

    def __init__(self, path, client_flags=3):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.greeting = receive_exactly(self.socket, 18)
        if client_flags is not None:
            self.socket.sendall(struct.pack(">I", client_flags))

    def option(self, number, payload=b"", length=None):
        self.socket.sendall(struct.pack(">QII", IHAVEOPT, number, len(payload) if length is None else length)
                            + payload)

    def reply(self):
        magic, option, kind, length = struct.unpack(">QIII", receive_exactly(self.socket, 20))
        check(magic == 0x3E889045565A9, "option reply magic")
        return option, kind, receive_exactly(self.socket, length)

    def replies(self, number, payload=b""):
        self.option(number, payload)
        out = []
        while True:
            _, kind, body = self.reply()
            out.append((kind, body))
            if kind == ACK or kind & 0x80000000:
                return out

    def closed(self):
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


def info_payload(name, infos=()):
    raw = name if isinstance(name, bytes) else name.encode()
    return struct.pack(">I", len(raw)) + raw + struct.pack(">H", len(infos)) + b"".join(
        struct.pack(">H", i) for i in infos)


def meta_payload(name, queries):
    raw = name.encode()
    return struct.pack(">I", len(raw)) + raw + struct.pack(">I", len(queries)) + b"".join(
        struct.pack(">I", len(q)) + q for q in queries)


def options(path):
    h = Haggler(path)
    check(struct.unpack(">QQH", h.greeting) == (0x4E42444D41474943, IHAVEOPT, 3), "greeting")
    # Refusals leave the haggling intact: all of these on one connection.
    check(h.replies(3)[0][0] == SERVER, "list")
    check(len(h.replies(3)) == 3, "list names both exports")
    check(h.replies(3, b"x")[0][0] == ERR_INVALID, "list with payload")
    check(h.replies(4)[0][0] == ERR_UNSUP, "peek export")
    check(h.replies(5)[0][0] == ERR_UNSUP, "starttls")
    check(h.replies(11)[0][0] == ERR_UNSUP, "extended headers")
    check(h.replies(77, b"some payload")[0][0] == ERR_UNSUP, "unknown option, payload drained")
    check(h.replies(6, b"")[0][0] == ERR_INVALID, "info without payload")
    check(h.replies(6, info_payload("data") + b"x")[0][0] == ERR_INVALID, "info too long")
    check(h.replies(6, struct.pack(">I", 99) + b"data" + b"\0\0")[0][0] == ERR_INVALID, "info name length")
    check(h.replies(6, info_payload("da\0ta"))[0][0] == ERR_INVALID, "NUL in a name")
    check(h.replies(6, info_payload("nothing"))[0][0] == ERR_UNKNOWN, "unknown export")
    check(h.replies(10, meta_payload("data", [b"base:allocation"]))[0][0] == ERR_INVALID,
          "meta context without structured replies")
    infos = h.replies(6, info_payload("data", (3, 1, 2, 9)))
    kinds = sorted(struct.unpack(">H", body[:2])[0] for kind, body in infos if kind == INFO)
    check(kinds == [0, 1, 2, 3], f"information asked for, and the export always: {kinds}")
    block = [body for kind, body in infos if kind == INFO and body[:2] == b"\0\3"][0]
    check(struct.unpack(">III", block[2:]) == (1, 4096, 32 * MIB), "block sizes")
    default = h.replies(6, info_payload(""))
    check(any(body[:2] == b"\0\1" and body[2:] == b"data" for _, body in default), "default export's name")
    check(h.replies(8, b"x")[0][0] == ERR_INVALID, "structured reply with payload")
    check(h.replies(8)[0][0] == ACK, "structured reply")
    check(h.replies(8)[0][0] == ERR_INVALID, "structured reply twice")
    check(len(h.replies(9, meta_payload("data", []))) == 2, "list meta: no query, all contexts")
    check(len(h.replies(9, meta_payload("data", [b"base:"]))) == 2, "list meta: wildcard")
    check(len(h.replies(9, meta_payload("data", [b"qemu:x"]))) == 1, "list meta: unknown namespace")
    check(len(h.replies(10, meta_payload("data", [b"base:"]))) == 1, "set meta: base: selects nothing")
    check(h.replies(10, meta_payload("nothing", [b"base:allocation"]))[0][0] == ERR_UNKNOWN, "set meta: export")
    check(len(h.replies(10, meta_payload("data", [b"base:allocation"]))) == 2, "set meta")
    check(h.replies(10, b"\0\0")[0][0] == ERR_INVALID, "set meta: malformed")
    h.option(7, info_payload("data"))
    while h.reply()[1] != ACK:
        pass
    # The failed selection replaced the good one: block status has no context.
    h.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 7, 5, 0, PAGE))
    magic, flags, kind, cookie, length = struct.unpack(">IHHQI", receive_exactly(h.socket, 20))
    body = receive_exactly(h.socket, length)
    check(magic == 0x668E33EF and kind == 0x8001 and struct.unpack(">I", body[:4])[0] == errno.EINVAL,
          "block status without a context")

    h = Haggler(path)
    h.option(7, bytes(70000))
    check(h.reply()[1] == ERR_TOO_BIG, "an option over 64 KiB is drained")
    check(h.replies(3)[0][0] == SERVER, "and haggling goes on")
    h.option(7, b"", length=33 * MIB)
    check(h.closed(), "an option over 32 MiB ends the connection")
    check(Haggler(path, client_flags=0x80).closed(), "unknown client flags")
    h = Haggler(path)
    h.socket.sendall(struct.pack(">QII", 123, 3, 0))
    check(h.closed(), "wrong option magic")
    h = Haggler(path)
    h.option(2)
    check(h.reply()[1] == ACK and h.closed(), "abort")
    h = Haggler(path, client_flags=2)
    h.option(3)
    check(h.closed(), "only EXPORT_NAME without fixed newstyle")
    for flags, padding in ((0, 124), (1, 124), (2, 0), (3, 0)):
        h = Haggler(path, client_flags=flags)
        h.option(1, b"data")
        size, _ = struct.unpack(">QH", receive_exactly(h.socket, 10))
        check(size == SIZE and receive_exactly(h.socket, padding) == bytes(padding), "export name")
        h.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, READ, 9, 0, 512))
        check(struct.unpack(">IIQ", receive_exactly(h.socket, 16)) == (0x67446698, 0, 9), "and it works")
    h = Haggler(path)
    h.option(1, b"nothing")
    check(h.closed(), "EXPORT_NAME of an unknown export")
    h = Haggler(path)
    for _ in range(200):
        try:
            h.option(77)
        except ConnectionError:
            break
    try:
        while h.socket.recv(65536):
            pass
    except ConnectionError:
        pass
    check(True, "a client that goes on haggling is cut off")


def bad_input(path):
    c = Client(path)
    table = [
        # command, offset, length, flags, expected
        (99, 0, 512, 0, errno.EINVAL), (READ, 0, 512, 1 << 9, errno.EINVAL), (READ, 0, 512, NO_HOLE, errno.EINVAL),
        (READ, 0, 512, 1 << 2, errno.EINVAL), (WRITE, 0, 512, 1 << 4, errno.EINVAL),
        (TRIM, 0, 512, NO_HOLE, errno.EINVAL), (FLUSH, 0, 0, NO_HOLE, errno.EINVAL),
        (READ, SIZE, 512, 0, errno.EINVAL), (READ, SIZE - 1, 2, 0, errno.EINVAL),
        (READ, (1 << 64) - 512, 1024, 0, errno.EINVAL),
        (WRITE, SIZE, 512, 0, errno.ENOSPC), (WRITE, SIZE - 1, 2, 0, errno.ENOSPC),
        (ZEROES, SIZE - 1, 4096, 0, errno.ENOSPC), (ZEROES, (1 << 64) - 1, 4096, 0, errno.ENOSPC),
        (TRIM, SIZE - 1, 4096, 0, errno.EINVAL), (CACHE, SIZE, 1, 0, errno.EINVAL),
        (READ, 0, 0, 0, 0), (WRITE, 0, 0, 0, 0), (TRIM, 0, 0, 0, 0), (ZEROES, 0, 0, 0, 0), (CACHE, 0, 0, 0, 0),
        (READ, 0, 32 * MIB + 1, 0, errno.EINVAL), (WRITE, 0, 33 * MIB, 0, errno.EINVAL),
        (FLUSH, 512, 0, 0, errno.EINVAL), (FLUSH, 0, 512, 0, errno.EINVAL),
        (7, 0, 512, 0, errno.EINVAL),
        (FLUSH, 0, 0, FUA, 0), (TRIM, 0, 4096, FUA, 0), (ZEROES, 0, 4096, FUA | NO_HOLE, 0), (CACHE, 0, 4096, FUA, 0),
        (WRITE, 7, 13, FUA, 0), (ZEROES, 1, 4097, 1 << 4, errno.ENOTSUP), (ZEROES, 4096, 8192, 1 << 4, 0),
    ]
    for command, offset, length, flags, expected in table:
        payload = bytes(length) if command == WRITE else b""
        got = c.call(command, offset, length, flags, payload)
        check(got == expected, f"command {command} {offset}+{length} flags {flags}: {got}, not {expected}")
    check(c.read(SIZE - 512, 512) == bytes(512), "the connection still works")
    c.send(DISC, 1, 5, 7)
    check(c.socket.recv(1) == b"", "disconnect")
    c = Client(path)
    c.socket.sendall(bytes(28))
    check(c.socket.recv(1) == b"", "a wrong magic ends the connection")
    c = Client(path)
    c.send(WRITE, 1, 0, 65 * MIB)
    check(c.socket.recv(1) == b"", "a payload over 64 MiB ends the connection")


def semantics(path):
    c, d = Client(path), Client(path)
    # Byte granularity, across pages and chunks.
    for offset, length in ((1, 1), (4095, 2), (131071, 4098), (5 * MIB + 3, MIB + 7), (9 * MIB, 5 * MIB)):
        data = os.urandom(length)
        check(c.call(WRITE, offset, length, 0, data) == 0, "write")
        check(d.read(offset, length) == data, "what one connection wrote the other reads")
        check(d.read(offset - 1 if offset else 0, 1) is not None, "neighbour")
    check(c.call(WRITE, 20 * MIB, 3 * PAGE, 0, b"\xaa" * 3 * PAGE) == 0, "write")
    check(c.call(TRIM, 20 * MIB + 100, 2 * PAGE) == 0, "trim")
    check(c.read(20 * MIB, 3 * PAGE) == b"\xaa" * PAGE + bytes(PAGE) + b"\xaa" * PAGE, "trim: whole pages only")
    check(c.call(ZEROES, 20 * MIB + 100, 2 * PAGE) == 0, "write zeroes")
    check(c.read(20 * MIB, 3 * PAGE) == b"\xaa" * 100 + bytes(2 * PAGE) + b"\xaa" * (PAGE - 100), "exact bytes")

    # A flush does not hold up reads that come behind it, and answers may overtake.
    for cookie in range(100):
        c.send(WRITE, cookie, cookie * PAGE, PAGE, 0, b"\xbb" * PAGE)
    c.send(FLUSH, 1000)
    c.send(READ, 1001, 0, PAGE)
    answered = []
    for _ in range(102):
        cookie, error = c.reply()
        check(error == 0, "pipelined")
        if cookie == 1001:
            receive_exactly(c.socket, PAGE)
        answered.append(cookie)
    check(sorted(answered) == sorted([*range(100), 1000, 1001]), "every request is answered once")

    # Concurrent flushes share commits; a flush with nothing to do is immediate.
    def flush_many(client):
        for _ in range(50):
            assert client.call(FLUSH) == 0
    clients = [Client(path) for _ in range(8)]
    threads = [threading.Thread(target=flush_many, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def structured(path):
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.set_uri_allow_local_file(True)
    h.connect_uri(f"nbd+unix:///data?socket={path}")
    h.set_strict_mode(0)
    check(h.get_structured_replies_negotiated(), "structured replies")
    for can in (h.can_cache, h.can_df, h.can_fast_zero, h.can_flush, h.can_fua, h.can_multi_conn, h.can_trim, h.can_zero):
        check(can(), "transmission flags")
    check(not h.is_read_only() and not h.is_rotational(), "neither read-only nor rotational")
    base = 40 * MIB
    h.zero(8 * MIB, base)
    h.pwrite(b"\x11" * PAGE, base + PAGE)
    h.pwrite(b"\x22" * PAGE, base + 5 * PAGE)
    h.zero(4 * PAGE, base + 16 * PAGE, nbd.CMD_FLAG_NO_HOLE)
    chunks = []
    buffer = h.pread_structured(8 * PAGE, base, lambda data, offset, status, error: chunks.append((offset - base, len(data), status)))
    check(buffer == bytes(PAGE) + b"\x11" * PAGE + bytes(3 * PAGE) + b"\x22" * PAGE + bytes(2 * PAGE), "content")
    kinds = [status for _, _, status in sorted(chunks)]
    check(kinds == [nbd.READ_HOLE, nbd.READ_DATA, nbd.READ_HOLE, nbd.READ_DATA, nbd.READ_HOLE], f"holes are not sent: {chunks}")
    chunks.clear()
    h.pread_structured(8 * PAGE, base, lambda data, offset, status, error: chunks.append(status), nbd.CMD_FLAG_DF)
    check(chunks == [nbd.READ_DATA], "DF: one chunk")
    extents = []
    def collect(context, offset, entries, error):
        if context == "base:allocation":
            extents.extend(zip(entries[::2], entries[1::2]))
    h.block_status(32 * PAGE, base, collect)
    expected = [(PAGE, 3), (PAGE, 0), (3 * PAGE, 3), (PAGE, 0), (10 * PAGE, 3), (4 * PAGE, 2), (12 * PAGE, 3)]
    check(extents == expected, f"base:allocation: {extents}")
    extents.clear()
    h.block_status(32 * PAGE, base + 5 * PAGE, collect, nbd.CMD_FLAG_REQ_ONE)
    check(extents == [(PAGE, 0)], "REQ_ONE")
    for call, expected in ((lambda: h.pread(PAGE, SIZE), errno.EINVAL), (lambda: h.pwrite(bytes(PAGE), SIZE), errno.ENOSPC),
                           (lambda: h.block_status(PAGE, SIZE, collect), errno.EINVAL),
                           (lambda: h.block_status(0, 0, collect), errno.EINVAL),
                           (lambda: h.pread(33 * MIB, 0, nbd.CMD_FLAG_DF), errno.EOVERFLOW)):
        try:
            call()
            check(False, "must fail")
        except nbd.Error as error:
            check(error.errnum == expected, f"error chunk {error.errno}, not {expected}")
    check(len(h.pread(48 * MIB, 0)) == 48 * MIB, "a structured read over the payload limit comes in parts")
    h.cache(16 * MIB, 0)
    h.shutdown()


def limits(server, path):
    # Silent clients: in the handshake they get ten seconds.
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(path)
    begin = time.monotonic()
    silent.settimeout(30)
    receive_exactly(silent, 18)
    check(silent.recv(1) == b"" and 8 < time.monotonic() - begin < 20, "the handshake has a deadline")
    # A cap on connections: what is beyond is closed, what is within works.
    held = [Client(path) for _ in range(30)]
    refused = 0
    extra = []
    for _ in range(10):
        s = socket.socket(socket.AF_UNIX)
        extra.append(s)
        s.settimeout(10)
        s.connect(path)
        try:
            refused += s.recv(18) == b""
        except ConnectionError:
            refused += 1
    check(refused >= 8, f"connections beyond the cap are refused: {refused}")
    check(held[0].read(0, 512) is not None, "the others go on")
    for client in held + extra:
        client.close()
    time.sleep(0.2)
    # A client that never reads its answers does not hurt the others.
    deaf = Client(path)
    deaf.socket.setblocking(False)
    try:
        for cookie in range(100000):
            deaf.socket.send(struct.pack(">IHHQQI", 0x25609513, 0, READ, cookie, 0, MIB))
    except BlockingIOError:
        pass
    other = Client(path)
    for _ in range(20):
        check(len(other.read(0, MIB)) == MIB, "a neighbour of a client that never reads")


def shutdown(server, path):
    # Work in progress is answered, a silent client in the handshake does not hold the end up.
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(path)
    c = Client(path)
    for cookie in range(32):
        c.send(WRITE, cookie, cookie * PAGE, PAGE, FUA, b"\xcc" * PAGE)
    server.process.send_signal(signal.SIGTERM)
    answered = 0
    try:
        while True:
            _, error = c.reply()
            check(error in (0, errno.ESHUTDOWN), f"at shutdown: {error}")
            answered += 1
    except ConnectionError:
        pass
    check(server.finish(40) == 0, "the server ends well")
    check(answered <= 32, "nothing is answered twice")


with Directory() as directory:
    server = directory.server(binary_from_argv(), volume=f"data:{SIZE}", memory="256MiB",
                              extra=["--volume", "other:1MiB", "--default-export", "data", "--connections-max", "32"])
    server.start()
    path = server.socket
    options(path)
    bad_input(path)
    semantics(path)
    structured(path)
    limits(server, path)
    shutdown(server, path)
    print(f"RESULT {checks} checks of options, flags, commands, bad input, semantics, limits, shutdown")
