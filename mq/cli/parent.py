"""Parent: keeps as many processes alive as were asked for, and tells what they do.

A process tells by a pipe that it is ready, and then, in lines, what it has done.  On a terminal what it
prints comes by here as well, so that it does not run into the status line.
"""

from __future__ import annotations

import bisect
import io
import math
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple

from mq.cli.app import USAGE
from mq.cli.status import Status
from mq.workers.counts import Counts
from mq.workers.mailbox import Mailbox
from mq.workers.signals import Signals

BACKOFF_SECONDS: Final = 1.0  # before a child is begun again; twice as long after each that follows
BACKOFF_SECONDS_MAX: Final = 60.0
STEADY_SECONDS: Final = 10.0  # a child that lived for so long was no failure to begin
OUTPUT_SECONDS: Final = 1.0  # for the last lines of a child that has ended


class Told(NamedTuple):
    """What is told of a child: it is ready, or has done more; printed something; or has ended."""

    child: Child
    counts: Counts | None = None
    output: bytes = b""
    code: int | None = None


class Child:
    def __init__(self, given: list[str], told: Mailbox[Told | int], *, on_terminal: bool = False) -> None:
        self.begun, self.counts = time.monotonic(), Counts()
        self._told = told
        ready, ready_here = os.pipe()
        printed, terminal = _pseudo_terminal() if on_terminal else (None, None)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mq", "worker", *given, "--child", str(ready_here)],
                stdin=subprocess.PIPE, stdout=terminal if sys.stdout and sys.stdout.isatty() else None,
                stderr=terminal, pass_fds=[ready_here], start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(ready_here)
            if terminal is not None:
                os.close(terminal)
        threads = [threading.Thread(target=self._hear, args=(ready,), daemon=True)]
        if printed is not None:
            threads.append(threading.Thread(target=self._pass_on, args=(printed,), daemon=True))
        for each in threads:
            each.start()
        threading.Thread(target=self._wait, args=(threads,), daemon=True).start()

    def _wait(self, threads: list[threading.Thread]) -> None:
        """Tell of its end, behind all else that there is to be told.

        A process that a handler forked may live on, and keep the pipes open.
        """
        code = self.process.wait()
        for each in threads:
            each.join(OUTPUT_SECONDS)
        self._told.put(Told(self, code=code))

    def _hear(self, ready: int) -> None:
        with open(ready, "rb") as pipe:
            for line in pipe:
                self._told.put(Told(self, Counts(*map(int, line.split()))))

    def _pass_on(self, printed: int) -> None:
        """Tell of whole lines."""
        with open(printed, "rb", buffering=0) as pipe, suppress(OSError):  # it ends with EIO
            self._pass_lines_on(pipe)

    def _pass_lines_on(self, pipe: io.FileIO) -> None:
        rest = b""
        while output := pipe.read(1 << 16):
            lines, newline, rest = (rest + output).rpartition(b"\n")
            if newline:
                self._told.put(Told(self, output=lines + newline))


def _pseudo_terminal() -> tuple[int, int] | tuple[None, None]:
    """One as wide as that of this process; none, if the system has no more."""
    try:
        ours, theirs = pty.openpty()
    except OSError:  # the child prints by itself
        return None, None
    with suppress(OSError, termios.error):
        termios.tcsetwinsize(theirs, termios.tcgetwinsize(sys.stderr))
    return ours, theirs


class Parent:
    def __init__(self, given: list[str], processes: int) -> None:
        self._given, self._wanted = given, processes
        self._told: Mailbox[Told | int] = Mailbox()  # of children, and the numbers of signals
        self._status = Status()
        self._stopping = False
        self._children: set[Child] = set()
        self._ended = Counts()  # of those that have ended
        self._again: list[float] = []  # when each that died is begun again, monotonic seconds, sorted
        self._failed = 0  # in a row
        self._code = 0

    def run(self) -> int:
        """Return when all children have ended: 0, or the code of one that could not begin."""
        with Signals(self._told):
            self._begin()  # one at first: what keeps it from running would keep all
            self._look_after_them()
            self._status.end(self._ended)
        return self._code

    def _look_after_them(self) -> None:
        look_at = time.monotonic() + self._status.seconds
        while self._children or (self._again and not self._stopping):
            again = self._again[0] if self._again and not self._stopping else math.inf
            for told in self._told.take(min(again, look_at) - time.monotonic()):
                self._hear(told)
            if self._again and not self._stopping and self._again[0] <= time.monotonic():
                self._again.pop(0)
                self._begin()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + self._status.seconds
                self._status.show(len(self._children), self._counts())

    def _counts(self) -> Counts:
        return Counts(*map(sum, zip(self._ended, *(child.counts for child in self._children), strict=True)))

    def _hear(self, told: Told | int) -> None:
        if isinstance(told, int):
            self._stop()
        elif told.code is not None:
            self._end(told.child, told.code)
        elif told.counts is None:
            self._status.write(told.output)
        else:
            told.child.counts = told.counts
            while not self._stopping and len(self._children) + len(self._again) < self._wanted:
                self._begin()

    def _begin(self) -> None:
        self._children.add(Child(self._given, self._told, on_terminal=self._status.is_on_terminal))

    def _stop(self) -> None:
        """Have all children end; again: at once."""
        self._stopping = True
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)

    def _end(self, child: Child, code: int) -> None:
        """*child* has ended: begin another one, after a while, if it was not meant to."""
        self._children.remove(child)
        done, failed = child.counts.done + self._ended.done, child.counts.failed + self._ended.failed
        self._ended = Counts(0, done, failed)
        if code == 0 or self._stopping:
            self._wanted -= 1
            return
        if code == USAGE:  # it has said why
            self._code = code
            self._stop()
            return
        lived = time.monotonic() - child.begun
        self._failed = 0 if lived > STEADY_SECONDS else self._failed
        seconds = min(BACKOFF_SECONDS * 2**self._failed, BACKOFF_SECONDS_MAX)
        self._failed += 1
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._status.note(f"worker {child.process.pid} {how}; another one in {seconds:g} s")
        bisect.insort(self._again, time.monotonic() + seconds)
