"""Segments begun: when one is full, when the log goes on behind a crash, when the cleaner wants the last one.

    file, header, fsync ──► its name, fsync of the directory ──► FENCE ──► the end is in it

A segment is used once its header and its name are on the disk: a gap would pass for damage.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from mq.errors import StoreFailed

from . import paths, record, segment
from .disk import PAGE_BYTES, write_all
from .explain import NO_DESCRIPTORS, NO_ROOM, REOPEN, storage_error
from .identity import Identity
from .record import CLOCK_BYTES, FENCE_BYTES
from .reserve import Reserve
from .segment import Segment, is_zero
from .shared import DIRTY, END
from .syncing import Syncing
from .tail import Tail
from .watch import Watch

ALLOCATE_BYTES: Final = 1 << 20  # room is reserved in steps of this; a full disk is noticed here
STARVED_BYTES: Final = 16 << 10  # the same, on a full disk
FULL_SEGMENT_BYTES: Final = 256 << 10  # a segment begun on a full disk has at least this capacity
FREE_SHARE: Final = 8  # and no segment has more than this part of the room that is free, if that is more
SKEW_MS: Final = 5000  # the wall clock is told apart from store time if they differ by more


class Rotation:
    def __init__(
        self, tail: Tail, identity: Identity, segment_bytes: int, reserve: Reserve, watch: Watch,
        syncing: Syncing,
    ) -> None:  # fmt: skip
        self._tail, self._identity, self._segment_bytes = tail, identity, segment_bytes
        self._disk, self._reserve, self._watch, self._syncing = tail.disk, reserve, watch, syncing

    def clock_was_set(self) -> bool:
        """Whether the segment that is written to was begun when the wall clock differed by another time."""
        return abs(self._tail.owner.skew_ms() - self._tail.segments[-1].skew_ms) > SKEW_MS

    def rotate(self, now_ms: int, size: int = 0) -> None:
        """Go on in a new segment, whose header and name are on the disk before it is used."""
        before, end = self._tail.segments[-1:], self._tail.end
        self.begin_segment(now_ms, before[0].limit if before else 0, size, void_from=end)
        if self._reserve.full:
            for last in before:
                self.cut(last, end)

    def roll(self, now_ms: int) -> None:
        """Go on in a new segment, so that the one in use can be cleaned or is left to a process that died.

        What was reserved in the last one is for others.
        """
        last, end = self._tail.segments[-1], self._tail.end
        self.fence(now_ms, last.limit)
        self.cut(last, end)

    def fence(self, now_ms: int, base: int) -> None:
        """Go on in a new segment, on a full disk too: what is behind the end is void."""
        asked = STARVED_BYTES
        while True:
            try:
                self.begin_segment(now_ms, base, 0, void_from=self._tail.end)
                return
            except OSError as error:
                if error.errno not in NO_ROOM or not self._reserve.give(asked):
                    raise storage_error(self._tail.directory, error) from error
                self._reserve.full = True
                asked *= 4

    def cut(self, each: Segment, end: int) -> None:
        """What was reserved in a segment behind its *end* is for others, if nothing was ever written there.

        Only when the log goes on elsewhere, and the page says so: another process may have that room
        mapped, and would be killed where it copies to what is gone.
        """
        if end < each.base:
            return  # after a crash, when all of it is void
        start = each.offset(end)
        with suppress(OSError):  # it costs room, and nothing else
            fd = self._disk.open(self._tail.reader.path(each), write=True)
            try:
                if is_zero(self._disk, fd, start):
                    self._disk.truncate(fd, -(-start // PAGE_BYTES) * PAGE_BYTES)
            finally:
                self._disk.close(fd)

    def begin_segment(self, now_ms: int, base: int, size: int, *, void_from: int) -> None:
        """Create the segment at *base* with room for *size* bytes, fence [void_from, base), go on in it."""
        self._watch.stand()
        tail = self._tail
        if tail.is_crowded():
            self._syncing.sync(tail.end)
        number = tail.segments[-1].number + 1 if tail.segments else 0
        if tail.segments:
            now_ms = max(now_ms, tail.segments[-1].created_ms)
        skew = tail.owner.skew_ms()
        if abs(skew) <= SKEW_MS:
            skew = 0
        capacity = max(self._usual_capacity(), FENCE_BYTES + size + (CLOCK_BYTES if skew else 0))
        seed = record.seed(self._identity.key, base)
        new = Segment(number, base, capacity, now_ms, seed, segment.FEATURES, skew, tail.epoch)
        fence = record.Fence(void_from, tail.head, capacity, now_ms, tail.epoch)
        data = fence.encode(new.seed, base, tail.synced) + segment.encode_clock(new)
        fd, size = self._create(tail.reader.path(new), new)
        # An interruption between these lines leaves a log that writes to one segment and
        # counts in another.
        tail.unsettled = True
        tail.mark[DIRTY] = 1
        tail.reader.show([*tail.segments, new])
        tail.enter(new, fd, size)
        tail.write(data, base)
        tail.end = tail.mark[END] = base + len(data)
        tail.mark[DIRTY] = 0
        tail.unsettled = False

    def _usual_capacity(self) -> int:
        """Of a segment that is begun now; the record that it is begun for may take more.

        On a disk with little room segments are shorter: one goes only as a whole, and what
        lives in it has to fit beside it before that.  But very small ones waste room.
        """
        usual = self._segment_bytes
        if self._reserve.full:
            usual = max(usual, FULL_SEGMENT_BYTES)
        if usual > FULL_SEGMENT_BYTES and (free := self._disk.free(self._tail.directory)) is not None:
            usual = min(usual, max(FULL_SEGMENT_BYTES, free // FREE_SHARE))
        return usual

    def _create(self, path: str, new: Segment) -> tuple[int, int]:
        """The file of a segment, its header and name on the disk; descriptor and size."""
        disk = self._disk
        if disk.exists(path):
            if segment.begun_at(disk, self._identity, path, new.base):
                raise StoreFailed(path, "another process uses it that this one does not know of: " + REOPEN)
            # Begun, and never used.  Its name is made anew, for the sync of the directory
            # that failed or never came would not be made up for by another.
            disk.unlink(path)
        fd = disk.open(path, write=True, create=True)
        try:
            write_all(disk, fd, segment.encode_header(self._identity, new), 0)
            try:
                disk.sync(fd)
                disk.sync_directory(self._tail.directory)
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:  # not a sync that failed: the directory was not opened
                    raise
                raise self._tail.failure.fail(error, path, self._tail.fd) from error
            if not self._reserve.full:
                try:
                    disk.allocate(fd, segment.HEADER_BYTES, min(new.capacity, ALLOCATE_BYTES))
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    disk.truncate(fd, segment.HEADER_BYTES)  # `Room` asks for less
            return fd, disk.size(fd)
        except BaseException:
            disk.close(fd)
            raise

    def next_begun(self) -> tuple[Segment, int] | None:
        """The segment behind the last one, and where its fence voids from; None if it is not in use yet.

        OSError if there is no such file.
        """
        limit = self._tail.segments[-1].limit
        path = paths.segment(self._tail.directory, limit)
        return segment.begun_at(self._disk, self._identity, path, limit)
