"""Notifier: the thread that calls what watches are notified by.

    a publish, the listener, close ── with the mutex ──► rings a watch: put down here
    this thread, which holds no lock                ──► calls its function

So that function may use mq, or block: it keeps no publisher, and no receiver, waiting, but only the
other watches of this process.  What it raises is logged.  No operation waits for this thread, `close`
neither: the function may wait for the thread that closes.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from mq.engine.background import Worker


class Rung(Protocol):
    def call(self) -> None:
        """Call the watch's function, unless the watch has been armed again, or closed, since."""


class Notifier:
    def __init__(self, path: str, *, background: bool) -> None:
        self._path, self._background = path, background
        self._rung: deque[Rung] = deque()
        self._ends = False
        self._new_worker()

    def _new_worker(self) -> None:
        self.worker = Worker("mq-notifier", self._path, self.call_all, behind=self._rest)

    def begin(self) -> bool:
        """Whether a thread will call; called before a watch is armed."""
        return not self._background or self.worker.start()

    def tell(self, watch: Rung) -> None:
        """Have its function called.  Takes no lock."""
        self._rung.append(watch)
        self.worker.ring()

    def call_all(self) -> bool:
        """Call for all that were rung; whether that was the last time."""
        while self._rung:
            try:
                self._rung.popleft().call()
            except BaseException as error:  # noqa: BLE001  the program's: the other watches go on
                self.worker.note(error)
        return self._ends

    def _rest(self) -> None:
        pass

    def end(self) -> None:
        """The store is closed: the thread ends when it has called for all that were rung.  Takes no lock."""
        self._ends = True
        self.worker.ring()

    def after_fork(self) -> None:
        """In a child: the watches that were rung are the parent's, and so is the thread."""
        self._rung.clear()
        self.worker.stop()  # it is here, if it forked in a function that it called
        self._new_worker()
