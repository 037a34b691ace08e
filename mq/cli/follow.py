"""The records of the log as they are appended: its files are read, no lock is taken, nothing is written.

    log/00…00.seg  [░░░░░░░░ shown ░░░░░░░░┊ new ]      ┊  the position
    log/67…64.seg  [ new │                       ]      │  the end that the page `mark` says

What a crash left behind the end of a segment is void: the reading goes on in the next file.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from mq.errors import CorruptStore, StorageError
from mq.storage import identity, paths, segment, shared
from mq.storage.disk import Disk
from mq.storage.look import Found, found_in
from mq.storage.segment import Scan, Segment
from mq.storage.shared import NO_LIMIT


class Follower:
    """Reads on each time from where it stopped.  *start*: where it begins; None: behind all that is there."""

    def __init__(self, disk: Disk, store: str, start: int | None) -> None:
        self._disk, self._store, self._log = disk, store, paths.log(store)
        self._own = identity.read(disk, paths.format_file(store))
        self.skipped = 0  # bytes of the log that went before they were read
        self.position = self.end() if start is None else start

    def end(self) -> int:
        """Up to where the log may be read now."""
        words = shared.read_mark(self._disk, paths.mark(self._store), self._own.key)
        if words[shared.RECOVERING]:
            return self.position
        return words[shared.END] or NO_LIMIT  # of a copy, the page says nothing: as far as it is whole

    def known_end(self) -> int:
        """The same, but 0 if the page does not tell."""
        end = self.end()
        return 0 if end == NO_LIMIT else end

    def bases(self) -> list[int]:
        """Where the segments begin."""
        return paths.segment_bases(self._disk.names(self._log))

    def read(self) -> Iterator[tuple[Segment, Found]]:
        """What was appended since.  A long body is only there until the next one is asked for."""
        end = self.end()
        while self.position < end:
            bases = self.bases()
            holding = [base for base in bases if base <= self.position]
            base = holding[-1] if holding else bases[0] if bases else NO_LIMIT
            if base >= end:
                return
            if base > self.position:
                self.skipped += base - self.position
                self.position = base
            try:
                limit = yield from self._read_segment(base, end)
            except FileNotFoundError:
                continue  # cleaned meanwhile
            if self.position >= min(end, limit):
                continue
            later = [each for each in bases if base < each < end]
            if not later:
                return
            self.position = later[0]

    def _read_segment(self, base: int, end: int) -> Generator[tuple[Segment, Found], None, int]:
        """Where the segment ends."""
        path = paths.segment(self._log, base)
        fd = self._disk.open(path)
        try:
            return (yield from self._scan(fd, path, base, end))
        finally:
            self._disk.close(fd)

    def _scan(self, fd: int, path: str, base: int, end: int) -> Generator[tuple[Segment, Found], None, int]:
        data = self._disk.pread(fd, segment.BEGIN_BYTES, 0)
        try:
            each = segment.decode_header(self._own, path, base, data)
        except segment.BadHeader as error:
            raise CorruptStore(path, str(error), 0) from None
        scan = Scan(self._disk, fd, each, self.position, min(end, each.limit), path)
        for stretch in scan:
            for event in stretch.events():
                yield each, found_in(each, event, dropped=False)
            self.position = max(self.position, stretch.lsns[-1] + 1)
        self.position = scan.end
        return each.limit


def require_log(disk: Disk, store: str) -> None:
    """StorageError if there is no log to follow."""
    if not disk.exists(paths.log(store)):
        raise StorageError(store, "there is no log here; check --store")
