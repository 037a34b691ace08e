"""The child of a fork: it takes leave of its parent's files, and opens the store for itself when it uses it.

    at the fork      all that was open is closed, and nothing unlocked: that would let go of what the parent
                     holds; locks, threads and receivers that wait are the parent's, and forgotten
    FORKED           the first operation opens the store, which must be the parent's
    CLOSED           the parent has it alone, so the child has none
    SPOILED          leave could not be taken: every use raises what stood in the way

Every open store takes part (forking.py).  How a thread that forks inside an operation comes by its locks is
in mq/forks.py.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Protocol

from mq import forks
from mq.engine import listener as hearing
from mq.engine.closing import Closing
from mq.engine.flusher import Flusher
from mq.engine.keeping import Keeper
from mq.engine.listener import Listener
from mq.engine.loading import identify
from mq.engine.maintenance import Maintenance
from mq.engine.phase import Phase
from mq.engine.replica import Replica
from mq.engine.scheduler import Scheduler
from mq.engine.turn import VOID, Turn
from mq.engine.waiters import Waiters
from mq.errors import MqError, StorageError, StoreFailed
from mq.storage.disk import Disk
from mq.storage.explain import explain
from mq.storage.identity import Identity
from mq.storage.memory_disk import MEMORY


class Owner(hearing.Owner, Protocol):
    """The store that was forked.  Its `busy`, `disk`, `listener` and threads are replaced in the child."""

    path: str
    read_only: bool
    exclusive: bool
    tag: str
    closing: Closing
    disk: Disk
    listener: Listener
    maintenance: Maintenance
    keeper: Keeper
    busy: set[int]
    owing: dict[int, int]
    closed: bool
    closed_why: str
    lost: bool
    inherited: int
    """Receipts before this one are from before a fork."""

    def become(self, phase: Phase) -> None:
        """From now on operations come in as it says."""

    def open(self, *, salvage: bool) -> None:
        """Open it for this process."""

    def threads(self) -> list[Maintenance | Listener | Flusher | Keeper | Scheduler]:
        """What has a thread."""

    def forget_threads(self) -> None:
        """They are another process's: new ones are started when there is something to do."""


class Child:
    """All but `locks` and `let_threads_begin` is called in the child."""

    _parents: tuple[Identity, str] | None = None  # the identity and tag of the store that the parent had open
    _spoiled: BaseException  # what kept this child from taking leave of its parent's files

    def __init__(self, store: Owner, turn: Turn, replica: Replica, waiters: Waiters) -> None:
        self._store, self._turn, self._replica, self._waiters = store, turn, replica, waiters

    # ── the fork: see mq/forks.py ──────────────────────────────────────────────────

    @property
    def busy(self) -> set[int]:
        """The threads that are inside an operation."""
        return self._store.busy

    def locks(self) -> list[tuple[forks.Lock, float]]:
        """For which a thread may wait here, and how long a fork waits.

        Those that are held for long seldom change hands.
        """
        store = self._store
        log = self._replica.log.locks() if self._replica.has_log else []
        lives = [each.worker.life for each in (*store.threads(), self._waiters.notifier)]
        held = store.maintenance.working, store.keeper.gate
        return [
            *((lock, 0.0) for lock in (store.closing.lock, *lives, *held)),
            *((lock, forks.FORK_SECONDS) for lock in (self._turn.mutex, *log)),
        ]

    def let_threads_begin(self, seconds: float) -> None:
        for each in (*self._store.threads(), self._waiters.notifier):
            each.worker.let_begin(seconds)

    # ── taking leave ───────────────────────────────────────────────────────────────

    def after_fork(self) -> None:
        """Nothing that was open is the child's own."""
        store, turn, replica = self._store, self._turn, self._replica
        forks.free(lock for lock, _ in self.locks())
        store.closing.lock = threading.RLock()
        was_open, parents_disk = not turn.gone, store.disk
        if not store.read_only:
            store.disk = parents_disk.after_fork()
        turn.after_fork(store.disk)
        replica.disk = store.disk
        try:
            if was_open and not store.read_only:
                store.inherited = max(store.inherited, replica.log.end)
                self._parents = replica.identity, store.tag
            self._waiters.after_fork()
            store.busy, store.owing, store.closing.closer = set(), {}, None
            store.forget_threads()
        finally:
            if not store.read_only:
                turn.gone, replica.applied = True, VOID
                self._forget_files(parents_disk)
        if store.read_only:
            if replica.epoch:
                replica.log.reader.after_fork()
                self._waiters.bind(replica.state, replica.applied)
        elif was_open and store.exclusive:
            store.closed_why = "opened exclusively before a fork, and still the parent's: open it again here"
            if store.path == MEMORY:
                store.closed_why = "private to the process that opened it, and this is a fork of that"
            store.closed = store.lost = True
            store.become(Phase.CLOSED)
        elif was_open and not store.closed:
            store.become(Phase.FORKED)

    def _forget_files(self, parents_disk: Disk) -> None:
        """Also those that another thread of the parent was just opening, or letting go of.

        A file that cannot be closed does not keep the others open; the first such error is raised.
        """
        store, turn, parents_listener = self._store, self._turn, self._store.listener
        store.listener = self._waiters.listener = Listener(store, store.path, store.disk, turn)
        turn.let_go_of_page()
        sync_fd, turn.page_fd = turn.page_fd, -1
        with ExitStack() as parts:  # the last one first
            parts.callback(turn.locks_after_fork)
            if sync_fd >= 0:
                parts.callback(parents_disk.close, sync_fd)
            if self._replica.has_log:
                parts.callback(self._replica.log.after_fork)
            parts.callback(parents_listener.after_fork)

    def spoil(self, error: BaseException) -> None:
        """What `after_fork` raised is raised by every use of the store."""
        self._turn.after_fork(self._store.disk)
        self._spoiled = error
        self._turn.gone, self._replica.applied = True, VOID
        if not self._store.closed:
            self._store.become(Phase.SPOILED)

    # ── using the store ────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Called by the first operation, as it comes in."""
        store = self._store
        with explain(store.path):
            # Before anything is made or changed, and again when it is certain.
            self.require_parents(identify(store.disk, store.path, create=False), store.tag)
            store.open(salvage=False)
        self._turn.enter()

    def require_parents(self, identity: Identity, tag: str) -> None:
        """StoreFailed if the parent had another store open."""
        if self._parents not in (None, (identity, tag)):
            raise StoreFailed(self._store.path, "another store is here than before the fork: open it again")

    def refuse_as_spoiled(self) -> None:
        if isinstance(self._spoiled, MqError):
            raise self._spoiled
        raise StorageError(
            self._store.path,
            f"this process, a fork, could not take leave of its parent's files ({self._spoiled!r}):"
            " open the store again here",
        ) from self._spoiled
