"""sync=seconds: a thread has the disk synced at least that often.

If the thread has ended, and no other can be had just now, publishers do it: whichever
comes by when a sync is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mq.engine.background import Worker
from mq.errors import StorageError
from mq.storage.log import Log


class Flusher:
    def __init__(
        self, path: str, log: Log, seconds: float, behind: Callable[[], object], missed: Callable[[], object]
    ) -> None:
        """*missed* is called when the thread has ended."""
        self._path, self._log, self._seconds, self._missed = path, log, seconds, missed
        self._synced_at = time.monotonic()
        self.missing = False  # the thread has ended: publishers call `help`
        self.worker = Worker("mq-sync", path, self._sync, behind=behind, ended=self._miss)
        self._sleep = partial(self.worker.nap, seconds)

    def begin(self) -> None:
        """StorageError if no thread can be had."""
        if not self.worker.start(self._sleep):
            raise StorageError(
                self._path,
                f"no new thread can be had to sync the disk every {self._seconds:g} seconds, as at the end of"
                ' a program or at a limit of threads (ulimit -u): open it with sync="always"',
            )

    def _sync(self) -> bool:
        """Whether that was the last time, for the log has failed."""
        with self._log.failure.unheard(), suppress(StorageError):
            self._log.sync(self._log.end)
        return self._log.failure.error is not None

    def _miss(self) -> None:
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
