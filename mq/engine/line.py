"""The line in front of the mutex: threads that are busy at the same time take turns of a millisecond.

    thread 1    publish, publish, publish … a millisecond is over ─► wakes thread 2, and stands in line
    thread 2    in line ─────────────────────────────────────────────► publish, publish, publish …
    thread 3    in line

A thread that waits for a lock is woken each time that it is given back, mostly in vain: the thread that gave
it back has the interpreter, and takes the lock again long before the other one runs.  With ten threads that
publish, four fifths of the time went into that.  So a thread that finds another one in its turn waits here.

Nothing depends on it: the mutex keeps the threads apart.  A thread that waits here holds nothing.  It looks
again by itself after a moment, and then each time after twice as long: the thread before it may have had one
thing to do only, or may have gone to do something else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from operator import call
from typing import Any, Final

from mq.engine.operation import nested

Mutex = Any  # threading.RLock: its type has no name

SLICE_SECONDS: Final = 0.001
LOOK_SECONDS: Final = 50e-6  # until a thread in line looks for the first time
LOOK_SECONDS_MAX: Final = 0.005  # between two looks
STAND_SECONDS_MAX: Final = (
    0.02  # in line: operations that are not written out flat wake none, and may follow close
)


class Line:
    """Read and changed without a lock: whatever two threads do at once here costs time, and nothing else."""

    def __init__(self, mutex: Mutex, *, used: bool) -> None:
        """*used*: else no thread waits here.  Where each publish waits for the disk, a line costs time."""
        self._mutex, self.used = mutex, used
        self._waiting: deque[tuple[int, threading.Lock]] = deque()  # threads, and what each of them sleeps on
        self._first, self._until = 0, 0.0  # the thread that goes ahead, and until when; monotonic seconds

    def wait(self, me: int, busy: set[int], asleep: Collection[object]) -> None:
        """Return when this thread may ask for the mutex; called if other threads are inside operations.

        *busy*: those threads.  *asleep*: which of them, or watches, wait for messages.  Raises UsageError if
        *me* is inside an operation already.
        """
        if me in busy:
            raise nested()
        if not self.used or self._mutex._is_owned():  # that of an event loop, which must not wait, has it
            return
        if self._waiting:
            now = time.monotonic()
            if now >= self._until:
                self._ring(now)
            elif me == self._first:
                return
        elif len(busy) <= len(asleep) or not self._is_held():
            return
        try:
            busy.add(me)  # so that the thread that goes ahead comes by here
            self._stand(me)
        finally:
            busy.discard(me)

    def _ring(self, now: float) -> None:
        """The next in line goes ahead."""
        with suppress(IndexError):  # another thread has just rung for it
            self._first, bell = self._waiting.popleft()
            self._until = now + SLICE_SECONDS
            bell.release()

    def _stand(self, me: int) -> None:
        """Wait in line, until this thread is woken, sees that none is in its turn, or has waited for long."""
        bell = threading.Lock()
        bell.acquire()
        place = me, bell
        try:
            self._waiting.append(place)
            self._sleep(me, bell)
        finally:
            with suppress(ValueError):  # it was rung for
                self._waiting.remove(place)

    def _sleep(self, me: int, bell: threading.Lock) -> None:
        seconds, give_up = LOOK_SECONDS, time.monotonic() + STAND_SECONDS_MAX
        while not bell.acquire(timeout=seconds):
            if not self._is_held() or time.monotonic() > give_up:
                self._first, self._until = me, time.monotonic() + SLICE_SECONDS
                return
            seconds = min(2 * seconds, LOOK_SECONDS_MAX)

    def _is_held(self) -> bool:
        """Whether a thread has the mutex; asked in one call of C, so that no signal keeps it taken."""
        try:
            deque(map(call, (partial(self._mutex.acquire, False), self._mutex.release)), maxlen=0)
        except RuntimeError:  # to be released, it has to be had
            return True
        return False
