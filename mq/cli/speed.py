"""What a disk does in a second: the hot path of mq, and beside each part the raw loop that does the least.

    case                  mq                                    raw loop
    ────────────────────  ────────────────────────────────────  ─────────────────────────────────────────
    publish, one by one   publish(body), sync="never"           a pwrite of header and body
    publish in hundreds   publish_many(100 bodies)              a pwrite of 100 of them
    receive and ack       receive(), ack()                      a pread of the body, a pwrite for each
    durable, one by one   publish(body), sync="always"          a pwrite, and an fdatasync
    durable in hundreds   publish_many(100 bodies), "always"    a pwrite of 100, and an fdatasync
    hand-off              to another process, and back          the same through two pipes

All are measured in turn, in short slices, again and again: what else the computer does meanwhile meets
all of them.  The raw loop writes to room that was reserved, as mq does.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import mq
from mq.cli import output
from mq.cli.app import Failure
from mq.cli.signals import Interrupts
from mq.storage.record import HEADER_BYTES

DURABLE: Final = "durable, one by one"
BATCH: Final = 100
STEP: Final = 64  # messages between two looks at the clock, where one takes microseconds
RAW_BYTES: Final = 64 << 20  # reserved for the raw loops; then they begin again
DELIVERY_BYTES: Final = 40
ACK_BYTES: Final = 36
WAIT_SECONDS: Final = 0.1  # between two looks whether a signal came
REASON_COLUMNS: Final = 200  # of what the other process said last
ANSWER: Final = "import sys; from mq.cli import speed; speed.{}(*sys.argv[1:])"

Step = Callable[[], int]
"""Does some of the work; how many messages that was.  0: there is nothing left to do."""


class Case(NamedTuple):
    name: str
    mq: Step
    raw: Step


class Spread(NamedTuple):
    """Of what was measured again and again."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


class Result(NamedTuple):
    """Messages a second, and what share of the raw loop's that is."""

    name: str
    mq: Spread
    raw: Spread
    ratio: Spread


def measure(
    directory: str, size: int, seconds: float, rounds: int, show: Callable[[int, int], None]
) -> Iterator[Result]:  # fmt: skip
    """What is done in *directory*, an empty one, with bodies of *size* bytes; it takes about *seconds*."""
    with Interrupts() as interrupts, ExitStack() as open_:
        course = _Course(directory, size, interrupts, open_)
        cases = course.cases()
        rates: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
        share, done = seconds / (2 * rounds * len(cases)), 0
        for _ in range(rounds):
            for case in cases:
                sides = [_rate(step, share, interrupts) for step in (case.mq, case.raw)]
                rates[case.name].append((sides[0], sides[1]))
                done += 1
                show(done, rounds * len(cases))
            course.purge()
    for name, pairs in rates.items():
        ours, raw = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        ratios = [one / other for one, other in pairs]
        yield Result(name, Spread.of(ours), Spread.of(raw), Spread.of(ratios))


def _rate(step: Step, seconds: float, interrupts: Interrupts) -> float:
    """Messages a second, in a slice of so many *seconds*."""
    count, begin = 0, time.perf_counter()
    while True:
        some = step()
        count += some
        passed = time.perf_counter() - begin
        if passed >= seconds or not some:
            return count / passed
        interrupts.check()


class _Course:
    """The stores, files and processes with which the cases are run."""

    def __init__(self, directory: str, size: int, interrupts: Interrupts, open_: ExitStack) -> None:
        self._directory, self._open, self._interrupts = Path(directory), open_, interrupts
        self._body = os.urandom(size)
        self._bodies = [self._body] * BATCH
        self._fast = self._queue("fast", "never")
        self._safe = self._queue("safe", "always")

    def _queue(self, name: str, sync: mq.Sync) -> mq.Queue[Any]:
        broker = self._open.enter_context(mq.open(self._directory / name, sync=sync))
        return broker.queue("bench")

    def cases(self) -> list[Case]:
        cached, synced = (_Raw(self._directory / name, len(self._body), self._open) for name in ("1", "2"))
        shared = _Shared(self._directory / "shared", self._body, self._interrupts, self._open)
        pipes = _Pipes(self._body, self._interrupts, self._open)
        return [
            Case("publish, one by one", self._publish, cached.write),
            Case("publish in hundreds", self._publish_many, cached.write_many),
            Case("receive and ack", self._receive, cached.read_and_write),
            Case(DURABLE, self._publish_safe, synced.write_safe),
            Case("durable in hundreds", self._publish_many_safe, synced.write_many_safe),
            Case("hand-off", shared.pass_on, pipes.pass_on),
        ]

    def purge(self) -> None:
        """What is left of a round takes no part in the next one."""
        for queue in (self._fast, self._safe):
            queue.purge()

    def _publish(self) -> int:
        publish, body = self._fast.publish, self._body
        for _ in range(STEP):
            publish(body)
        return STEP

    def _publish_many(self) -> int:
        self._fast.publish_many(self._bodies)
        return BATCH

    def _receive(self) -> int:
        receive = self._fast.receive
        for done in range(STEP):
            message = receive(timeout=0)
            if message is None:
                return done
            message.ack()
        return STEP

    def _publish_safe(self) -> int:
        self._safe.publish(self._body)
        return 1

    def _publish_many_safe(self) -> int:
        self._safe.publish_many(self._bodies)
        return BATCH


# ── the raw loops ──────────────────────────────────────────────────────────────────


class _Raw:
    """A file that is written from its beginning to its end, and then again."""

    def __init__(self, path: Path, size: int, open_: ExitStack) -> None:
        self._record = os.urandom(HEADER_BYTES + size)
        self._many = self._record * BATCH
        self._delivery, self._ack = bytes(DELIVERY_BYTES), bytes(ACK_BYTES)
        self._size = max(RAW_BYTES, len(self._many))
        self._fd, self._at = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), 0
        open_.callback(os.close, self._fd)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, self._size)

    def _append(self, data: bytes) -> None:
        if self._at + len(data) > self._size:
            self._at = 0
        self._at += os.pwrite(self._fd, data, self._at)

    def write(self) -> int:
        for _ in range(STEP):
            self._append(self._record)
        return STEP

    def write_many(self) -> int:
        self._append(self._many)
        return BATCH

    def read_and_write(self) -> int:
        for place in range(STEP):
            os.pread(self._fd, len(self._record), place * len(self._record))
            self._append(self._delivery)
            self._append(self._ack)
        return STEP

    def write_safe(self) -> int:
        self._append(self._record)
        os.fdatasync(self._fd)
        return 1

    def write_many_safe(self) -> int:
        self._append(self._many)
        os.fdatasync(self._fd)
        return BATCH


# ── another process ────────────────────────────────────────────────────────────────


class _Child:
    """A process that runs the function *name* of this module, until its standard input is closed."""

    def __init__(self, name: str, *args: str, open_: ExitStack) -> None:
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self._said = open_.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it ends with the others
        process = subprocess.Popen(
            [sys.executable, "-c", ANSWER.format(name), *args], env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=0,
        )  # fmt: skip
        open_.enter_context(process)  # it waits for the child, whose standard input it has closed by then
        assert process.stdin and process.stdout
        self.process, self.there, self.back = process, process.stdin.fileno(), process.stdout.fileno()
        if os.read(self.back, 1) != b"!":
            raise self.failure()

    def failure(self) -> Failure:
        """What to raise once it has ended: with the last line that it said."""
        code = self.process.wait()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        why = f" ({output.excerpt(lines[-1], REASON_COLUMNS)})" if lines else ""
        return Failure(f"the second process of the hand-off {how}{why}; nothing was left behind")


class _Shared:
    def __init__(self, path: Path, body: bytes, interrupts: Interrupts, open_: ExitStack) -> None:
        self._body, self._interrupts = body, interrupts
        broker = open_.enter_context(mq.open(path, sync="never"))
        self._there, self._back = broker.queue("there"), broker.queue("back")
        self._child = _Child("answer", str(path), open_=open_)

    def pass_on(self) -> int:
        self._there.publish(self._body)
        while (message := self._back.receive(timeout=WAIT_SECONDS)) is None:
            self._interrupts.check()
            if self._child.process.poll() is not None:
                raise self._child.failure()
        message.ack()
        return 2


class _Pipes:
    def __init__(self, body: bytes, interrupts: Interrupts, open_: ExitStack) -> None:
        self._body, self._interrupts = body, interrupts
        self._child = _Child("echo", str(len(body)), open_=open_)

    def pass_on(self) -> int:
        back = b""
        with suppress(BrokenPipeError):
            write_all(self._child.there, self._body)
            back = read_exactly(self._child.back, len(self._body))
        if not back:
            self._interrupts.check()
            raise self._child.failure()
        return 2


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_exactly(fd: int, size: int) -> bytes:
    """Nothing, if the other end of the pipe is closed."""
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            return b""
        data += part
    return data


def echo(size: str) -> None:
    """Write each body back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C goes to both; the other one ends this one
    os.write(1, b"!")
    while body := read_exactly(0, int(size)):
        os.write(1, body)


def answer(path: str) -> None:
    """Send each message back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with mq.open(path, sync="never") as broker:
        there, back = broker.queue("there"), broker.queue("back")
        os.write(1, b"!")
        while True:
            message = there.receive(timeout=WAIT_SECONDS)
            if message is not None:
                message.ack()
                back.publish(message.raw)
            elif select.select([0], [], [], 0)[0]:  # closed: the other process has ended
                return
