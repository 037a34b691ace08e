"""What other processes appended: read as it is applied, up to an end that the page named.

ordinarily     one read of the last segment, or none where its end is mapped
far behind     block by block, on into the segments that they began
dirty          a process died inside a write: what is there whole counts, the rest is fenced off
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mq.errors import ADVICE, CorruptStore

from . import paths
from .closing import Closing
from .record import FENCE_BYTES
from .rotation import Rotation
from .segment import Event, Scan, Segment, Stretch, is_zero
from .shared import DIRTY, END, NO_LIMIT
from .syncing import Syncing
from .tail import Tail
from .trimming import Trimming
from .watch import Watch

FOLLOW_BYTES: Final = 64 << 10  # read in one piece
FOLLOW_BYTES_MIN: Final = 16 << 10  # the same, where a part is asked for


class Following:
    def __init__(
        self, tail: Tail, rotation: Rotation, closing: Closing, syncing: Syncing, trimming: Trimming,
        watch: Watch,
    ) -> None:  # fmt: skip
        self._tail, self._rotation, self._closing = tail, rotation, closing
        self._syncing, self._trimming, self._watch = syncing, trimming, watch
        self._disk, self._pread = tail.disk, tail.disk.pread

    def follow(self, upto: int, enough: int = NO_LIMIT) -> Iterable[Stretch]:
        """What others appended, up to *upto*, an end that the page named.  Goes on in their new segments.

        Of more than *enough* bytes, whole groups of at least so many.
        FileNotFoundError: a segment is gone, so what it held is to be had from elsewhere now.
        """
        tail = self._tail
        last, begin = tail.segments[-1], tail.end
        if upto > last.limit or upto - begin > (FOLLOW_BYTES if enough > FOLLOW_BYTES else enough):
            return self._follow_far(upto, begin + enough)
        # Flat on purpose: one process follows another's every message through here.
        scan = Scan(self._disk, tail.fd, last, begin, upto, "")
        block = tail.mapped.read(begin, upto) if begin >= tail.mapped.first else b""
        if not block:
            block = self._pread(tail.fd, upto - begin, begin - tail.shift)
        found = scan.parse(block, begin)
        if scan.end != upto:
            return self._follow_far(upto, begin + enough)
        self._followed(scan, upto)
        tail.reader.followed = last, begin, block
        return found

    def appended_since(self, begin: int) -> list[Event]:
        """What this turn has appended from *begin* on, though an exception kept the page from saying so."""
        tail = self._tail
        last = tail.segments[-1]
        if tail.unsettled:  # nothing was, but a new segment was begun
            return []
        scan = Scan(self._disk, tail.fd, last, max(begin, last.base), last.limit, "")
        return [event for stretch in scan for event in stretch.events()]

    def _follow_far(self, upto: int, enough: int) -> Iterator[Stretch]:
        """Up to the first end of a group at *enough* or behind, or to *upto*."""
        tail = self._tail
        while upto > tail.segments[-1].limit:
            new, void_from = self._next_segment()
            yield from self._scan(void_from, enough)
            if tail.end >= enough:
                return
            # How long the file is says nothing without LOCK: where there is no room for what a process
            # reserves, it is longer for a moment.  The next append looks.
            fd, _ = tail.open_to_write(new)
            tail.reader.show([*tail.segments, new])
            tail.enter(new, fd, 0)
            tail.end = new.base + FENCE_BYTES
        yield from self._scan(upto, enough)

    def _scan(self, upto: int, enough: int) -> Iterator[Stretch]:
        """The records of the last segment from the end to *upto*, or to *enough*."""
        tail = self._tail
        start, whole = tail.end, 0
        for again in (False, True):
            scan = Scan(self._disk, tail.fd, tail.segments[-1], start, upto, "", whole)
            for found in scan.blocks(max(FOLLOW_BYTES_MIN, enough - tail.end)):
                yield from found
                if scan.end >= enough:
                    break
            if scan.end >= min(enough, upto):
                upto = scan.end
                break
            if not again:
                self._followed(scan, scan.end)
                self._syncing.wait_for_rewrite()
                start, whole = (scan.bad, scan.whole) if scan.bad < scan.whole else (scan.end, 0)
        self._followed(scan, upto)

    def _followed(self, scan: Scan, upto: int) -> None:
        tail = self._tail
        last = tail.segments[-1]
        if scan.end != upto:
            self._watch.stand()  # else damage is no explanation
            raise CorruptStore(
                tail.reader.path(last),
                f"what another process wrote here does not pass its checksum: {ADVICE}",
                last.offset(scan.end),
            )
        if upto > tail.end:
            self._closing.followed(scan, upto)
            tail.last_ms = last.created_ms + scan.last_ms
            tail.grows()  # the process that appended it may be dead, and its thread that syncs with it
        tail.end = upto
        if scan.head > tail.head:
            self._trimming.drop_before(scan.head)

    def _next_segment(self) -> tuple[Segment, int]:
        """The segment behind the last one, which is in use; and where its fence voids from."""
        found = self._rotation.next_begun()
        if found is None:
            path = paths.segment(self._tail.directory, self._tail.segments[-1].limit)
            raise CorruptStore(path, f"the segment does not begin with its fence: {ADVICE}", 0)
        return found

    def adopt(self, now_ms: int) -> None:
        """The process that held the lock died inside: what is there whole counts, and the rest is fenced off.

        Moves the page's end; the caller follows, and comes again until nothing is dirty.
        """
        self._watch.stand()  # or they are inside just now, under another LOCK
        tail = self._tail
        last = tail.segments[-1]
        scan = Scan(self._disk, tail.fd, last, tail.end, last.limit, tail.reader.path(last))
        scan.follow()
        if scan.end != tail.end:
            tail.mark[END] = scan.end
            return
        next_path = paths.segment(tail.directory, last.limit)
        if self._disk.exists(next_path):
            found = self._rotation.next_begun()
            if found and found[1] == tail.end:
                tail.mark[END] = last.limit + FENCE_BYTES
                return
        if not is_zero(self._disk, tail.fd, last.offset(tail.end)):
            self._rotation.roll(now_ms)
        tail.mark[DIRTY] = 0

    def rebase(self, segments: list[Segment], end: int) -> None:
        """Be where the log is, whatever was in between."""
        tail = self._tail
        fd, size = tail.open_to_write(segments[-1])
        with tail.using:
            tail.mapped.close()  # a thread may read there up to the end, and it is elsewhere in a moment
            tail.reader.reset(segments)
            tail.end = end
            tail.grows()
            tail.enter(segments[-1], fd, size)  # at once: the next sync needs a file
            tail.close_synced()
        tail.head = segments[0].base
