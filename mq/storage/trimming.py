"""The head of the log moves: segments before it are dropped, then unlinked, oldest first."""

from __future__ import annotations

from functools import partial

from mq.errors import StorageError

from . import paths
from .explain import NO_DESCRIPTORS, pass_on
from .shared import HEAD
from .tail import Tail
from .watch import Watch


class Trimming:
    def __init__(self, tail: Tail, watch: Watch) -> None:
        self._tail, self._disk, self._watch = tail, tail.disk, watch
        self.names_unsure = False  # a sync of the directory failed: no more segments may be unlinked

    def trim(self, before: int) -> int:
        """Drop the segments that end at *before* or sooner, and unlink them; how many bytes they had.

        That the log begins behind them is in it, and on the disk: see `Tail.append_head`.  Called without
        the turn: on some file systems it takes a millisecond to unlink a MiB.
        """
        tail = self._tail
        tail.owner.turn(partial(self._drop, before))
        return self._unlink_before(min(before, tail.head))

    def _drop(self, before: int) -> None:
        self._watch.stand()
        self.drop_before(before)
        if self._tail.fd >= 0:
            self._tail.mark[HEAD] = self._tail.head

    def drop_before(self, head: int) -> None:
        """What lived in the segments before *head* was moved, perhaps by another process, which unlinks them.

        They may be dropped already: by following a process that said where the log begins.
        """
        while len(self._tail.segments) > 1 and self._tail.segments[0].limit <= head:
            self._drop_oldest()
        self._tail.let_go_of_synced()  # else their room would not come back

    def _drop_oldest(self) -> None:
        tail = self._tail
        oldest, *others = tail.segments
        tail.head = others[0].base
        tail.reader.show(others)
        tail.reader.close_segment(oldest)

    def _unlink_before(self, head: int) -> int:
        """Unlink the files of the segments before *head*; how many bytes they had.

        Names go one at a time and in order: the directory is synced before the next, so
        a power cut never leaves a gap.
        """
        directory = self._tail.directory
        size, path = 0, directory
        try:
            # With those whose cleaner died before it had unlinked them.
            gone = [base for base in paths.segment_bases(self._disk.names(directory)) if base < head]
            if gone:
                self._sync_names()
            for base in gone:
                path = paths.segment(directory, base)
                size += self._size_at(path)
                self._disk.unlink(path)
                self._sync_names()
        except OSError as error:
            pass_on(error)
            # Not DiskFull, whatever it was: the next one may not go in its place.
            raise StorageError(path, f"cannot be removed, as it should be: {error.strerror}") from error
        return size

    def _size_at(self, path: str) -> int:
        fd = self._disk.open(path)
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def _sync_names(self) -> None:
        try:
            self._disk.sync_directory(self._tail.directory)
        except OSError as error:
            pass_on(error)
            # As with a failed fsync, a second try proves nothing: which names are on the disk is
            # not known, so no other may go before the store is opened again.
            self.names_unsure = error.errno not in NO_DESCRIPTORS
            raise
