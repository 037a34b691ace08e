"""Standard input.  A signal ends the waiting for it, also one that comes just before the waiting.

A read alone does not see that one: Python notices a signal when the main thread runs its next line, and that
is after the read.  `signal.set_wakeup_fd` writes to a pipe at once, and so this waits for either.
"""

from __future__ import annotations

import io
import os
import select
import signal
import stat
import sys
from contextlib import suppress
from typing import Any, BinaryIO


def stream() -> BinaryIO:
    """Standard input in bytes.  Not to be used beside `sys.stdin`: each reads ahead for itself."""
    source = sys.stdin.buffer
    try:
        fd = source.fileno()
    except io.UnsupportedOperation:  # no file: click's test runner
        return source
    if stat.S_ISREG(os.fstat(fd).st_mode):  # which keeps no reader waiting, and has a place to ask for
        return source
    return io.BufferedReader(_Waiting(fd))


class _Waiting(io.RawIOBase):
    """Descriptor *fd*, which stays open."""

    _pipe: tuple[int, ...] = ()

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._here, self._bell = self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._here, select.POLLIN)

    def readinto(self, buffer: Any) -> int:
        before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        try:
            self._wait()
        finally:
            signal.set_wakeup_fd(before)
        return os.readv(self._fd, [buffer])

    def _wait(self) -> None:
        """Return when there is something to read."""
        while all(fd == self._here for fd, _ in self._poll.poll()):  # a signal, whose handler goes on
            with suppress(BlockingIOError):
                os.read(self._here, 1 << 16)

    def readable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        pipe, self._pipe = self._pipe, ()
        for end in pipe:
            os.close(end)
        super().close()
