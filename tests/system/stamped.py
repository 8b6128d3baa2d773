"""Stamped blocks and the prefix oracle.

Every 4 KiB block that is written carries its address and a sequence number. Writers record when
each operation was issued and acknowledged, on one clock. One operation happened before another if
it was acknowledged before the other was issued; operations in flight together have no order.

After a crash the image must be the result of a set S of operations that is closed under
happened-before and holds everything that an acknowledged flush covers. With at most one operation
in flight per block, the image tells which version of each block is in S and which later ones are
not. So S exists exactly if no operation that is missing was acknowledged before one that is there
(or before an acknowledged flush) was issued.
"""

import itertools
import random
import struct
import threading

from harness import FLUSH, FUA, PAGE, TRIM, WRITE, ZEROES, Client

HEADER = struct.Struct("<QQ")
ZERO_PAGE = bytes(PAGE)
NEVER = float("inf")


def stamp(page, number):
    head = HEADER.pack(page, number)
    if number % 2:
        return head * (PAGE // HEADER.size)  # compresses well
    return head + random.Random(number).randbytes(PAGE - HEADER.size)


class Operation:
    __slots__ = ("issued", "acknowledged", "number", "fua")

    def __init__(self, issued, number, fua):
        self.issued, self.number, self.fua = issued, number, fua  # number 0: reads as zeroes
        self.acknowledged = NEVER


class Image:
    """What each page held when the epoch began, and what was done to it since."""

    def __init__(self, pages):
        self.base = [0] * pages
        self.history = [[] for _ in range(pages)]
        self.flushed = -1  # issue time of the newest acknowledged flush
        self.clock = itertools.count(1)
        self.numbers = itertools.count(1)

    def check(self, data):
        """Finds which version of every page is there; returns how many operations are missing."""
        latest_present, present = self.flushed, "a flush"
        earliest_missing, missing = NEVER, None
        lost = 0
        for page, history in enumerate(self.history):
            block = data[page * PAGE:(page + 1) * PAGE]
            if block == ZERO_PAGE:
                number = 0
            else:
                address, number = HEADER.unpack_from(block)
                assert address == page, f"page {page} holds a block of page {address}"
                assert number and block == stamp(page, number), f"page {page} is torn"
            versions = [self.base[page]] + [operation.number for operation in history]
            assert number in versions, f"page {page} holds {number}, never written there: {versions}"
            at = len(versions) - 1 - versions[::-1].index(number)
            if at > 0 and history[at - 1].issued > latest_present:
                latest_present, present = history[at - 1].issued, f"page {page}"
            for operation in history[at:]:
                lost += 1
                assert not (operation.fua and operation.acknowledged < NEVER), \
                    f"page {page}: an acknowledged FUA write is gone"
                if operation.acknowledged < earliest_missing:
                    earliest_missing, missing = operation.acknowledged, page
            self.base[page] = number
        assert earliest_missing > latest_present, \
            f"not a prefix: page {missing} lost what was acknowledged at {earliest_missing}, " \
            f"but {present} of {latest_present} is there"
        self.history = [[] for _ in self.base]
        self.flushed = -1
        return lost


class Writer(threading.Thread):
    """One connection that writes its own share of the pages, pipelined, until the server is gone."""

    def __init__(self, image, path, pages, seed, depth=16, export="data"):
        super().__init__(daemon=True)
        self.image, self.pages, self.depth = image, pages, depth
        self.random = random.Random(seed)
        self.client = Client(path, export)
        self.in_flight = {}  # cookie → list of operations, or the issue time of a flush
        self.busy = set()
        self.cookies = itertools.count(1)
        self.count = 0
        self.flushes = 0
        self.errors = []
        self.stopping = False

    def issue(self):
        image, rng = self.image, self.random
        cookie = next(self.cookies)
        dice = rng.random()
        if dice < 0.04:
            issued = next(image.clock)
            self.in_flight[cookie] = issued
            self.client.send(FLUSH, cookie)
            return
        first = rng.choice(self.pages)
        run = []
        for page in range(first, first + rng.choice((1, 1, 1, 2, 5, 12))):
            if page not in self.page_set or page in self.busy:
                break
            run.append(page)
        if not run:
            return
        fua = dice > 0.98
        zero = dice < 0.14
        if zero:
            # A zeroed page must be told from every other version of it in this epoch.
            run = [page for page in run if self.tellable(page)]
            run = run[:1]
            if not run:
                return
        operations = []
        issued = next(image.clock)
        payload = []
        for page in run:
            number = 0 if zero else next(image.numbers)
            operation = Operation(issued, number, fua)
            image.history[page].append(operation)
            operations.append((page, operation))
            self.busy.add(page)
            if not zero:
                payload.append(stamp(page, number))
        self.in_flight[cookie] = operations
        command = WRITE if not zero else rng.choice((TRIM, ZEROES))
        self.client.send(command, cookie, run[0] * PAGE, len(run) * PAGE, FUA if fua else 0,
                         b"".join(payload))
        self.count += 1

    def tellable(self, page):
        return self.image.base[page] != 0 and all(op.number for op in self.image.history[page])

    def collect(self):
        cookie, error = self.client.reply()
        now = next(self.image.clock)
        done = self.in_flight.pop(cookie)
        if error:
            self.errors.append(error)
            if not isinstance(done, int):
                for page, _ in done:
                    self.busy.discard(page)
            return
        if isinstance(done, int):
            self.flushes += 1
            self.image.flushed = max(self.image.flushed, done)
            return
        for page, operation in done:
            operation.acknowledged = now
            self.busy.discard(page)

    def run(self):
        self.page_set = set(self.pages)
        try:
            while not self.stopping:
                while len(self.in_flight) < self.depth:
                    self.issue()
                self.collect()
            while self.in_flight:
                self.collect()
        except (ConnectionError, OSError):
            pass  # the server was killed


def read_image(path, pages, export="data"):
    client = Client(path, export)
    step = 1 << 20
    data = b"".join(client.read(at, min(step, pages * PAGE - at))
                    for at in range(0, pages * PAGE, step))
    client.close()
    return data
