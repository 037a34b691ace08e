"""Closing a store: by `close`, by a thread behind an operation that was interrupted, or when it is forgotten.

    begin nothing    the phase is CLOSING: operations are refused, those that sleep wake up
    wait             for the operations of other threads that are inside
    finish           the threads of mq end; a last cleaning, a sync, and a record that the log ends here
    let go           of every file, LOCK last; also when all before was interrupted

A store that is forgotten is let go of only: see mq/hold.py.
"""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import suppress
from threading import get_ident
from typing import Final, Protocol

from mq import forks
from mq.engine.clock import Clock
from mq.engine.flusher import Flusher
from mq.engine.keeping import Keeper
from mq.engine.listener import Listener
from mq.engine.maintenance import Maintenance
from mq.engine.notifier import Notifier
from mq.engine.phase import Phase
from mq.engine.replica import Replica
from mq.engine.scheduler import Scheduler
from mq.engine.turn import Turn
from mq.errors import DiskFull, MqError, StoreFailed
from mq.notes import ERROR, Notes
from mq.storage import shared
from mq.storage.disk import Disk, Patience
from mq.storage.explain import explain
from mq.storage.memory_disk import MEMORY
from mq.storage.shared import FAILED, HOLDER

CLOSE_SECONDS: Final = 1.0  # for operations of other threads to end, once no more may begin
CLOSE_NAP_SECONDS: Final = 200e-6


class Owner(Protocol):
    """The store that is closed.  A fork replaces some of what it has, so that is asked for each time."""

    path: str
    read_only: bool
    exclusive: bool
    notes: Notes
    disk: Disk
    listener: Listener
    notifier: Notifier
    maintenance: Maintenance
    busy: set[int]
    """The threads that are inside an operation."""
    closed: bool
    """No operation comes in any more."""

    def become(self, phase: Phase) -> None:
        """From now on operations come in as it says."""

    def threads(self) -> list[Maintenance | Listener | Flusher | Keeper | Scheduler]:
        """What has a thread that uses the files."""

    def wake_all(self) -> None:
        """Each thread that waits looks for itself at what changed."""

    def close(self) -> None: ...
    def let_go(self) -> None:
        """Close every file, the lock last."""


class Closing:
    def __init__(self, store: Owner, turn: Turn, replica: Replica, clock: Clock, notes: Notes) -> None:
        self._store, self._turn, self._replica, self._clock, self._notes = store, turn, replica, clock, notes
        self.lock = threading.RLock()  # by one thread at a time: another one comes back when it is done
        self.closer: Closer | None = None  # made once; no lock, for its maker is inside an operation
        self._forgotten: list[bool] = []  # has an entry while files of a forgotten store are to be closed
        self._finished = False  # close has nothing more to do than to let go of them; touched with `lock`

    def close(self) -> None:
        """See `Store.close`."""
        me, store = get_ident(), self._store
        if me not in store.busy and not any(each.worker.is_this_thread() for each in store.threads()):
            try:
                with self.lock:
                    try:
                        store.busy.add(me)  # not before: a thread that closes waits for those that are inside
                        self._close()
                    finally:
                        store.busy.discard(me)
            finally:
                self._notes.log()
        elif not store.closed:
            store.become(Phase.CLOSING)
            self.closer = self.closer or Closer(store)

    def _close(self) -> None:
        first = False
        try:
            with self._turn.mutex:
                if not self._store.closed:
                    first = self._store.closed = True
                    self._store.become(Phase.CLOSING)
                    self._store.wake_all()
            if first and not self._turn.gone:
                self._wait_for_others()
                with explain(self._store.path):
                    self._finish()
        finally:
            if first:
                self._finished = True
            if self._finished:
                self.let_go_of_all()  # also when all before it was interrupted
            self._store.notifier.end()  # behind `wake_all`, so that each watch is notified
        if first and self._replica.log.failure.error and not self._replica.log.failure.told:
            raise self._replica.log.failure.error

    def forget(self) -> None:
        """No program can use the store any more, or close it.

        Called by the garbage collector: it takes no lock that this thread may hold.
        """
        store = self._store
        if store.closed or (self._turn.gone and not store.read_only):  # or it is the parent's, of a fork
            return
        store.closed = True
        store.become(Phase.CLOSING)
        self._forgotten.append(True)
        for each in store.threads():
            each.stop()
        store.notifier.end()
        try:
            if not self._is_in_use():
                self.let_go_if_forgotten()
        finally:
            if self._turn.pid == os.getpid() and store.path != MEMORY:
                warnings.warn(
                    f"{store.path}: never closed: call close(), or use `with mq.open(...)`", ResourceWarning,
                    source=store, stacklevel=2,
                )  # fmt: skip

    def _is_in_use(self) -> bool:
        """Whether a thread is in the midst of something here, perhaps this one."""
        if self._store.busy or forks.is_held(self._turn.mutex):
            return True
        return self._store.maintenance.is_working() or self._replica.log.syncing.is_syncing()

    def let_go_if_forgotten(self) -> None:
        """Close the files of a store that no program can close; called with no lock held."""
        with suppress(IndexError):
            self._forgotten.pop()  # for one of the threads that may come here at once
            self._leave_for_good()

    def _wait_for_others(self) -> None:
        """Let other threads end what they are inside of: what they have appended is to be returned."""
        left, patience = set(self._store.busy), Patience(CLOSE_SECONDS)
        left.discard(get_ident())
        while left and not patience.is_over():
            self._store.disk.pause(CLOSE_NAP_SECONDS)
            left &= self._store.busy

    def let_go_of_all(self) -> None:
        self._end_threads()
        self._leave_for_good()
        self._store.disk.close_rest()

    def _end_threads(self) -> None:
        """No thread of mq outlives the files that it uses; called without the mutex."""
        for each in self._store.threads():
            each.stop()
            each.worker.join()
        self._store.listener.let_go()

    def _leave_for_good(self) -> None:
        """The lock goes last, when no thread here writes any more."""
        with self._turn.mutex:
            self._turn.gone = True
            self._turn.leave = int
            if self._store.closed:
                self._store.become(Phase.CLOSED)
        self._store.maintenance.wait()
        self._store.let_go()

    def _finish(self) -> None:
        """Nothing new begins here: bring to an end what was begun."""
        self._end_threads()
        with self._turn.mutex, suppress(StoreFailed), self._replica.log.failure.unheard():
            self._replica.log.watch.stand()
        if self._replica.log.failure.error or self._turn.mark[FAILED]:
            return
        if self.is_alone():
            self._store.maintenance.finish()
        self._replica.log.sync(self._replica.log.end)
        self._turn.take_with_lock(self._say_closed)

    def _say_closed(self) -> None:
        if self._store.exclusive or self._turn.locks.arrive(exclusive=False):
            with suppress(DiskFull):  # then the log is all there, and only does not say so
                self._replica.log.closing.say_closed(self._clock.store_ms())
        self._turn.mark[shared.SEEN] = self._clock.store_ms()
        self._turn.mark[HOLDER] = 0  # no error names a process that has closed it
        # Here, for the last one has presence alone: the next process would be refused.
        self._turn.locks.depart()

    def is_alone(self) -> bool:
        """Whether no other process has the store open, just now."""
        return self._store.exclusive or self._turn.take_with_lock(self._look_around)

    def _look_around(self) -> bool:
        alone = self._turn.locks.arrive(exclusive=False)
        if alone:
            self._turn.locks.admit_others()
        return alone


class Closer(threading.Thread):
    """Closes a store for a thread that is inside an operation."""

    def __init__(self, store: Owner) -> None:
        super().__init__(name="mq-close")  # not a daemon: the interpreter waits for the last sync
        self._store = store
        self.start()

    def run(self) -> None:
        try:
            self._store.close()
        except MqError as error:
            self._store.notes.put_down(ERROR, "%s: closing it failed: %s", self._store.path, error)
            self._store.notes.log()
