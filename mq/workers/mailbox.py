"""Mailbox: what is put in by any thread, or by a signal's handler, and taken out by one thread that waits.

The thread waits for a pipe and not for a lock.  Python notices a signal when the main thread runs its
next line, and a signal that comes just before the thread waits for a lock would not end that wait.
`signal.set_wakeup_fd` writes to the pipe at once.
"""

from __future__ import annotations

import os
import select
from collections import deque
from contextlib import suppress
from typing import Final, Generic, TypeVar

T = TypeVar("T")

LONG_SECONDS: Final = 1e6  # as good as for ever, and what `poll` can count


class Mailbox(Generic[T]):
    fd = _here = -1  # until the pipe is there: an exception out of a signal's handler may come before

    def __init__(self) -> None:
        self._letters: deque[T] = deque()
        self._waits = False
        self._here, self.fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._here, select.POLLIN)

    def put(self, letter: T) -> None:
        """Takes no lock: may be called at any point, also inside of another `put`."""
        self._letters.append(letter)
        if self._waits:  # in this order, and `take` in the other
            self._ring()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # full: so the thread wakes as it is
            os.write(self.fd, b"\0")

    def take(self, seconds: float) -> list[T]:
        """All that there is; if there is nothing, wait so long for something."""
        if not self._letters and seconds > 0:
            self._waits = True
            try:
                if not self._letters:
                    self._poll.poll(min(seconds, LONG_SECONDS) * 1000)
            finally:
                self._waits = False
            with suppress(BlockingIOError):
                os.read(self._here, 1 << 16)
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._letters.popleft())
        return found

    def __del__(self) -> None:
        """Not before: a thread that rings has a reference, and the number may be another file's soon."""
        if self.fd >= 0:
            os.close(self.fd)
            os.close(self._here)
