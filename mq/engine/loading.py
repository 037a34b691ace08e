"""Reading the state of a store: from its newest checkpoint and what follows, or from the whole log."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import msgspec

from mq.delivery import fold, records, snapshot
from mq.delivery.backlog import Arrays, Chunk
from mq.delivery.state import State
from mq.errors import ADVICE, CorruptStore, StorageError
from mq.storage import checkpoint, copies, identity, paths, recovery
from mq.storage.checkpoint import Place
from mq.storage.disk import Disk
from mq.storage.identity import Identity
from mq.storage.recovery import StaleCheckpoint, Survey
from mq.storage.segment import Scan, Stretch
from mq.storage.shared import NO_LIMIT

# A checkpoint is a cache.  One that does not decode says what another version knows, or what a mistake of
# mq put there: the log says it too, or says by name what is wrong.
NOT_USABLE: Final = (StaleCheckpoint, msgspec.MsgspecError)

watch: Callable[[int, int], object] | None = None
"""Told how many bytes of a log are read, and of how many, whenever this process loads the state of a store.

At the end it is told that all are, however the reading ended.  None: nothing is told.  A program that has a
user who waits sets it before it opens a store.
"""


class Loaded(NamedTuple):
    state: State
    survey: Survey
    checkpoint: int  # where the checkpoint stands that was used, or stands in the way; 0: there is none


def identify(disk: Disk, path: str, *, create: bool) -> Identity:
    """Which store is at *path*; a new one, with *create*, if there is none."""
    format_path, log_path = paths.format_file(path), paths.log(path)
    if disk.exists(format_path):
        return identity.read(disk, format_path)
    if create and not disk.names(log_path):
        return identity.create(disk, format_path)
    if create or (disk.exists(log_path) and paths.segment_bases(disk.names(log_path))):
        raise CorruptStore(format_path, f"there is a log, but no FORMAT file beside it; {ADVICE}")
    if not disk.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    disk.names(path)  # whose error says more, if it is no directory, or not for us
    raise StorageError(path, "this is not a store: it has no FORMAT file; check the path")


class Loader:
    def __init__(
        self, disk: Disk, path: str, own: Identity, again: Callable[[int, int, Chunk], Arrays]
    ) -> None:  # fmt: skip
        """*again* is asked for ids that the checkpoint does not keep any more, once all is loaded."""
        self._disk, self._identity, self._again = disk, own, again
        self._log_path = paths.log(path)
        self._checkpoint_path = paths.checkpoints(path)
        self._loading = False

    def load(self, synced: int, upto: int = NO_LIMIT, *, copied: bool = False) -> Loaded:
        """The state as of *upto*; *synced* is what the page claims to be on the disk.

        *copied*: the checkpoint may be newer than the log that was copied.
        """
        loaded = self._load(synced, upto, copied=copied)
        if copied and loaded.survey.error:
            loaded.survey.error = copies.explained(loaded.survey.error)
        return loaded

    def _load(self, synced: int, upto: int, *, copied: bool) -> Loaded:
        newest = checkpoint.newest(self._disk, self._checkpoint_path, self._identity.key, upto)
        if newest is None:
            return self.load_log(synced, upto)
        if not copied:
            # It was put there when everything before it was on the disk.
            synced = max(synced, newest.position)
        self._loading = True
        try:
            state = snapshot.restore(newest.state, self._load_chunk)
            found = self._survey(synced, state, upto, newest.start)
            found.last_ms = max(found.last_ms, newest.last_ms)
            found.event_ms = max(found.event_ms, newest.last_ms)  # its writer had said what came before
            return Loaded(state, found, newest.position)
        except NOT_USABLE:
            return self.load_log(synced, upto)._replace(checkpoint=newest.position)
        finally:
            self._loading = False

    def load_log(self, synced: int, upto: int = NO_LIMIT) -> Loaded:
        """The same, from the whole log."""
        state = State()
        return Loaded(state, self._survey(synced, state, upto, None), 0)

    def _survey(self, synced: int, state: State, upto: int, start: recovery.Start | None) -> Survey:
        def survey(apply: recovery.Apply) -> Survey:
            args = self._disk, self._log_path, self._identity, synced, apply, records.NEW
            return recovery.survey(*args, upto, start)

        if watch is None:
            return survey(partial(fold.apply, state))
        end = recovery.end_of_files(self._disk, self._log_path, upto)
        try:
            return survey(_Watched(state, watch, start.position if start else -1, end))
        finally:
            watch(end, end)

    def _load_chunk(self, number: int, priority: int, chunk: Chunk) -> Arrays:
        ids_at, positions_at = chunk.saved
        ids = checkpoint.load(self._disk, self._checkpoint_path, Place(*ids_at))
        positions = None
        if positions_at:
            positions = checkpoint.load(self._disk, self._checkpoint_path, Place(*positions_at))
        if ids is not None and (positions is not None or positions_at is None):
            return ids, positions
        if self._loading:
            raise StaleCheckpoint
        return self._again(number, priority, chunk)


class _Watched:
    """The fold of what is read, which tells how far it is."""

    def __init__(self, state: State, show: Callable[[int, int], object], begin: int, end: int) -> None:
        self._state, self._show, self._begin, self._end = state, show, begin, end

    def __call__(self, scan: Scan) -> None:
        fold.apply(self._state, self._told(scan))

    def _told(self, scan: Scan) -> Iterator[Stretch]:
        for stretch in scan:
            yield stretch
            self._begin = stretch.lsns[0] if self._begin < 0 else self._begin
            self._show(stretch.lsns[-1] - self._begin, self._end - self._begin)


class Parts:
    """Ids that a checkpoint kept, and a newer one of another process does not keep there any more.

    They are in the state that the log gives, which is read once, however many are asked for.
    """

    def __init__(self, disk: Disk, path: str, own: Identity, upto: int) -> None:
        self._loader, self._upto = Loader(disk, path, own, _is_stale), upto
        self._state: State | None = None

    def part(self, number: int, priority: int, chunk: Chunk) -> Arrays:
        """The ids of *chunk*, in queue *number*, that nothing touched between its checkpoint and *upto*."""
        try:
            self._state = self._state or self._loader.load(0, self._upto).state
            return self._part(self._state, number, priority, chunk)
        except StaleCheckpoint:
            self._state = self._loader.load_log(0, self._upto).state
            return self._part(self._state, number, priority, chunk)

    def _part(self, state: State, number: int, priority: int, chunk: Chunk) -> Arrays:
        queue = state.queue(number)
        if queue is None:
            raise StaleCheckpoint
        gone = array("Q", [chunk.first]) * chunk.taken  # what they were is not asked
        ids, positions = queue.ready.lane(priority).part(chunk.first, chunk.size - chunk.taken)
        return gone + ids, gone + positions


def _is_stale(number: int, priority: int, chunk: Chunk) -> Arrays:
    raise StaleCheckpoint
