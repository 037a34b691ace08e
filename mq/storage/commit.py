"""Group commit: one fdatasync for all threads that wait for the disk.

    thread 1 ──append──┐                      ┌──► returns
    thread 2 ──append──┤ gather ─ fdatasync ──┼──► returns
    thread 3 ──append──┘                      └──► returns
    thread 4 ─────────────append── waits ── the next one

The thread that comes first leads.  Those that come while a sync is running wait for its
end, each on a lock of its own, and one of them leads the next.  (An Event would not do: it
takes a lock again on its way out, and a signal that interrupts that leaves a lock that is
given back twice.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

LEADER_SECONDS: Final = 1.0  # a follower looks again then: its leader may have been interrupted


class GroupCommit:
    def __init__(self, synced: Callable[[], int], sync: Callable[[], None]) -> None:
        """*synced* says how far the disk has everything; *sync* makes it all that is written by now."""
        self._synced, self._sync = synced, sync
        self.gate = threading.RLock()  # held for a moment: which thread leads, and which follow
        self._leading = False
        self._followers: list[threading.Lock] = []  # released at the end of the sync that is running
        self._company = 1  # how many the last round served
        self._seconds = 0.0  # how long it took

    def wait(self, upto: int) -> None:
        """Return when everything below *upto* is on the disk."""
        while self._synced() < upto:
            leads, bell = False, None
            try:
                with self.gate:
                    if self._leading:
                        bell = threading.Lock()
                        bell.acquire()
                        self._followers.append(bell)
                    else:
                        leads = True  # first, so that an interruption here cannot leave them without a leader
                        self._leading = True
                if bell:
                    bell.acquire(timeout=LEADER_SECONDS)
                elif self._synced() < upto:
                    self._lead()
            finally:
                if leads:
                    # Here, before anything is called: an interruption must not leave it set.
                    self._leading = False
                    self._end_round()

    def after_fork(self) -> None:
        """In a child: threads that lead or follow are not here, except one whose signal handler forked."""
        self.gate, self._leading = threading.RLock(), False
        ended, self._followers = self._followers, []
        for bell in ended:
            bell.release()

    def _lead(self) -> None:
        """Sync for all that wait.

        In company, let the others write first, for no longer than the disk takes anyway:
        threads that a sync has released are soon back with their next message, and
        without this the first of them would sync for itself alone.
        """
        if self._company > 1:
            give_up = time.perf_counter() + self._seconds
            while len(self._followers) + 1 < self._company and time.perf_counter() < give_up:
                time.sleep(0)  # the others need the interpreter, not this processor
        begin = time.perf_counter()
        self._sync()
        self._seconds = time.perf_counter() - begin

    def _end_round(self) -> None:
        with self.gate:
            ended, self._followers = self._followers, []
            self._company = len(ended) + 1
        for bell in ended:
            bell.release()
