"""Checkpoints: when the state is kept for the next opening, and how.

It is copied in a turn, and encoded and written beside it (delivery/snapshot.py, storage/checkpoint.py).
A checkpoint is a cache: without one, opening takes longer, and nothing else.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import msgspec

from mq.delivery import snapshot
from mq.delivery.snapshot import Frozen
from mq.engine.replica import Replica
from mq.errors import StorageError
from mq.notes import WARNING, Notes
from mq.storage import checkpoint, paths
from mq.storage.cleaner import Turn
from mq.storage.explain import explain
from mq.storage.log import Log
from mq.storage.memory_disk import MEMORY
from mq.storage.recovery import Start

CHECKPOINT_BYTES: Final = 4 << 20  # of log between two checkpoints, at least
CHECKPOINT_SHARE: Final = 4  # and at least as many times the state that the last one wrote
LET_RUN_SECONDS: Final = 20e-6  # the system makes 80 of it: as long as it takes to wake a thread


class Checkpoints:
    """All but `is_due` is called without the mutex, by the one thread and process that cleans."""

    def __init__(self, turn: Turn, replica: Replica, notes: Notes, *, background: bool) -> None:
        """*background*: other threads of this process go on while a checkpoint is encoded."""
        self._turn, self._replica, self._notes, self._background = turn, replica, notes, background
        self._path = paths.checkpoints(replica.path)
        self._bytes = 0  # that the last one took

    def is_due(self, grown: int = CHECKPOINT_BYTES) -> bool:
        """Whether the log has grown by so many bytes since the last one, and by a multiple of the state."""
        replica = self._replica
        since = replica.log.end - replica.checkpoint_at
        return self._can_be() and since > max(grown, CHECKPOINT_SHARE * self._bytes)

    def _can_be(self) -> bool:
        return self._replica.path != MEMORY and not self._replica.log.reserve.full

    def see_others(self) -> None:
        """Another process may have written one since."""
        replica = self._replica
        if not replica.turn.exclusive:
            positions = checkpoint.positions(replica.disk, self._path, "state")
            replica.checkpoint_at = max([replica.checkpoint_at, *positions])

    def write_if_due(self, grown: int) -> None:
        """Write one if the log has grown by so many bytes; one that cannot be written is logged."""
        if self.is_due(grown):
            self._try()

    def keep_renames(self) -> None:
        """Before the oldest segment is dropped: see to it that the newest checkpoint stands behind it.

        Else a process that has not followed that far would find no record of a rename, and nothing that
        keeps it.
        """
        replica = self._replica
        segments, moved = replica.log.segments, replica.state.moved
        if moved and len(segments) > 1 and replica.checkpoint_at < segments[0].limit and self._can_be():
            self._try()

    def _try(self) -> None:
        try:
            with explain(self._path):
                self.write()
        except StorageError as error:
            self._notes.put_down_rarely(
                WARNING, "%s: no checkpoint, so opening will take longer: %s", self._replica.path, error
            )
            self._replica.checkpoint_at = self._replica.log.end

    def write(self) -> None:
        """Keep the state as it is now, for the next opening."""
        replica = self._replica
        packs_there = set(checkpoint.positions(replica.disk, self._path, "ids"))
        if not replica.turn.exclusive:
            # A checkpoint of another process does not keep what only we knew where to find.
            # Be as far as that checkpoint, which this process may not have followed to yet.
            self._turn(lambda *_: None)
            replica.keep_only(lambda place: place[0] in packs_there)
        log, now_ms, start, frozen = self._turn(partial(self._freeze, packs_there))
        pack = checkpoint.Pack(start.position)
        state, packs, saved = snapshot.encode(frozen, pack.add, self._let_others_run)
        replica.checkpoint_at = start.position
        self._bytes = checkpoint.write(
            replica.disk,
            self._path,
            replica.identity.key,
            checkpoint.Checkpoint(checkpoint.VERSION, start, now_ms, sorted(packs), msgspec.Raw(b"")),
            state,
            pack,
            lambda: log.sync(start.position),
        )
        with replica.turn.mutex:
            for held, kept in saved:
                held.keep(kept)

    def _freeze(self, packs: set[int], log: Log, now_ms: int, epoch: int) -> tuple[Log, int, Start, Frozen]:
        """Where the state stands in the log now, and a copy of it; *packs* are those that are on the disk."""
        replica = self._replica
        log.watch.stand()
        replica.disk.make_directory(self._path)  # as a cache, it may be deleted at any time
        marker, head = log.append_head(now_ms, log.head)
        # Once more, for the state may have been read anew since; else nothing is missing.
        if not replica.turn.exclusive:
            replica.state.keep_only(lambda place: place[0] in packs)
        start = Start(log.end, log.segments[-1].base, marker, log.reader.checksum(marker), head)
        return log, now_ms, start, snapshot.freeze(replica.state)

    def _let_others_run(self) -> None:
        """Let the other threads have the interpreter: they ask for it only when they have waited for 5 ms."""
        if self._background:
            time.sleep(LET_RUN_SECONDS)
