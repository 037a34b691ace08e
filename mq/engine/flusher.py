"""sync=seconds: a thread has the disk synced at least that often, while there is something to sync.

                 seconds are over: sync            seconds are over, and there was nothing to sync
    nap ◄──────────────────────────────── nap ──────────────────────────────────────────────────────► asleep
     ▲                                                                                                  │
     └───────────────────────────────────── the log grows: `Tail.grows` ────────────────────────────────┘

Asleep, it waits without a limit of time: the process does nothing while nothing happens.  The append that
wakes it comes first, so what it appended is on the disk as soon as what is appended at any other time.

If the thread has ended, and no other can be had just now, publishers do it: whichever
comes by when a sync is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from mq.engine.background import ASLEEP, Worker
from mq.engine.turn import Turn
from mq.errors import StorageError
from mq.storage.log import Log


class Flusher:
    def __init__(
        self, path: str, log: Log, turn: Turn, seconds: float, behind: Callable[[], object],
        missed: Callable[[], object],
    ) -> None:  # fmt: skip
        """*missed* is called when the thread has ended."""
        self._path, self._log, self._turn, self._seconds, self._missed = path, log, turn, seconds, missed
        self._synced_at = time.monotonic()
        self.missing = False  # the thread has ended: publishers call `help`
        self.worker = Worker("mq-sync", path, self._step, behind=behind, ended=self._miss)
        self._nap = [seconds]  # of the next nap; the thread must not keep this object
        self._sleep = self.worker.napping(self._nap)

    def begin(self) -> None:
        """StorageError if no thread can be had."""
        if not self.worker.start(self._sleep):
            raise StorageError(
                self._path,
                f"no new thread can be had to sync the disk every {self._seconds:g} seconds, as at the end of"
                ' a program or at a limit of threads (ulimit -u): open it with sync="always"',
            )

    def _step(self) -> bool:
        """Whether that was the last time, for the log has failed."""
        if self._nap[0] == ASLEEP:  # woken: what is appended now is synced with what follows it
            self._nap[0] = self._seconds
            return False
        log = self._log
        was_idle = log.end <= log.synced
        with log.failure.unheard(), suppress(StorageError):
            log.sync(log.end)
        if log.failure.error is not None:
            return True
        if was_idle:
            self._fall_asleep()
        return False

    def _fall_asleep(self) -> None:
        """Sleep until the log grows, unless a thread is in its turn: perhaps it grows just now."""
        mutex = self._turn.mutex
        if mutex.acquire(blocking=False):
            try:
                if self._log.await_growth(self.worker.ring):
                    self._nap[0] = ASLEEP
            finally:
                mutex.release()

    def _miss(self) -> None:
        self._nap[0] = self._seconds
        self.missing = True
        self._missed()

    def help(self) -> None:
        """The thread has ended: begin another one or, if that cannot be, sync when it is due."""
        if self.worker.start(self._sleep):
            self.missing = False
        elif time.monotonic() >= self._synced_at + self._seconds:
            self._log.sync(self._log.end)
            self._synced_at = time.monotonic()

    def runs(self) -> bool:
        return self.worker.runs()

    def stop(self) -> None:
        self.worker.stop()
