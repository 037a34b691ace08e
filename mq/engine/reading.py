"""Opened with read_only=True: the log is read again when it has grown, and nothing is changed.

A reader takes no lock and has no page.  ARCHITECTURE.md says how it knows that what it read is whole.
"""

from __future__ import annotations

from typing import Protocol

from mq.engine.clock import Clock
from mq.engine.loading import identify
from mq.engine.replica import Replica
from mq.engine.turn import Turn
from mq.errors import StoreFailed, Unsupported
from mq.storage import locks, paths, shared
from mq.storage.explain import explain
from mq.storage.log import Log
from mq.storage.shared import END


class Owner(Protocol):
    """The store that is read."""

    tag: str
    """What tells its receipts from another's, and from those of a copy of it."""


class Reader:
    _seen_end: int
    """The log's end when it was last read.  Touched with the mutex, or by the thread that opens the store."""
    _seen_head: int
    """Where the log began then; touched as the end is."""
    still = False
    """What was read counts, though others append, until a segment of it goes: see `Store.hold_still`."""

    def __init__(self, owner: Owner, replica: Replica, turn: Turn, clock: Clock) -> None:
        self._owner, self._replica, self._turn, self._clock = owner, replica, turn, clock
        self._path, self._disk = replica.path, replica.disk  # a fork has the disk of a reader in common
        self._log_path, self._mark_path = paths.log(replica.path), paths.mark(replica.path)
        self.directory = -1  # it reads where it began; the store opens and closes it

    def attach(self) -> None:
        """Read what is there now, and change nothing."""
        self._replica.identify(identify(self._disk, self._path, create=False))
        self._turn.mark = shared.no_page()
        again = False
        while True:
            view = locks.look(self._disk, self._path, self._replica.identity.key)
            try:
                state, found, _ = self._replica.load(view.synced, view.upto, copied=view.copied)
            except FileNotFoundError:
                if not view.held or not self._disk.exists(self._log_path):
                    raise
                continue  # compaction dropped a segment before it was read
            if view.held and found.end < view.end and not again:
                again = True
                self._replica.wait_for_rewrite()
                continue
            if view.held and not found.error:
                break
            if not view.explains(locks.look(self._disk, self._path, self._replica.identity.key)):
                break
        self._seen_end, self._seen_head = view.end, view.head
        if found.error:
            raise found.error
        mark = self._turn.mark
        mark[shared.SYNCED] = mark[END] = found.end  # nothing here waits for the disk
        page = shared.read_mark(self._disk, self._mark_path, self._replica.identity.key)
        self._clock.start(found.last_ms, found.skew_ms, page)
        args = self._disk, self._log_path, self._replica.identity, mark
        self._replica.take_log(Log(*args, found.segments, found.end), found.verdict)
        self._owner.tag = self._replica.tag()
        self._replica.take_state(state, found.end)

    def look_again(self) -> None:
        with explain(self._path):
            self._look_and_attach()

    def _look_and_attach(self) -> None:
        if self._disk.inode_at(self._path) != self._disk.inode(self.directory):
            where = self._disk.whereabouts(self.directory) or "elsewhere"
            raise StoreFailed(
                self._path, f"moved or replaced while it was open, and now {where}: open it again"
            )
        words = shared.read_mark(self._disk, self._mark_path, self._replica.identity.key)
        if self.still and words[shared.HEAD] == self._seen_head:
            return
        if words[END] != self._seen_end:
            before = self._replica.log
            self.attach()
            before.close()  # a thread that still reads there looks again

    def refuse_changes(self) -> None:
        raise Unsupported(f"{self._path}: opened with read_only=True, which changes nothing")
