"""Reading records by their position: from any thread, at any time, without the log's lock.

The end of the log is read where it is mapped (mapped.py), if it is; else a segment is.  A
segment may go, and its descriptor with it, while a thread reads.  The number of the
descriptor may then name another file; the checksum, seeded by the segment's base,
tells, and the reading is done again under a lock.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol

import msgspec

from mq.errors import ADVICE, Closed, CorruptStore

from . import paths, record, segment
from .crc import crc32c
from .disk import Disk, is_anothers
from .explain import DAMAGE, explain, pass_on, storage_error
from .mapped import Mapped, unmapped
from .record import CRC, CRC_FROM, HEADER_BYTES, LOW
from .segment import Segment

UNPACK: Final = record.HEADER.unpack_from  # its own, and not `record.parse`: see there

OPEN_SEGMENTS_MAX: Final = 4  # descriptors kept
READ_BYTES: Final = 512  # what a read asks for before it knows the record's length
READ_AHEAD_BYTES: Final = 4096  # and when it goes on where the last one ended
READ_BYTES_MAX: Final = 64 << 10


Block = tuple[Segment | None, int, bytes]


class Stored(msgspec.Struct, gc=False):
    """A record read back from its position."""

    kind: int
    flags: int
    queue: int
    time_ms: int  # since 1970, by the wall clock of then
    payload: bytes


class HasEnd(Protocol):
    end: int


class Reader:
    mapped: Mapped  # what is mapped; another one, or closed, whenever a thread with the log's turn says so

    def __init__(self, disk: Disk, directory: str, segments: list[Segment], log: HasEnd) -> None:
        self._disk, self._directory, self._log = disk, directory, log
        self.mapped = unmapped()
        self._pread = disk.pread
        self._readers: dict[int, int] = {}  # descriptors by base
        self.files = threading.RLock()
        self._closed = False
        self._guess = READ_BYTES
        self._recent: Block = (None, 0, b"")  # read last: of which segment, from where on
        self.followed: Block = (None, 0, b"")  # the same, of what others appended last
        self._sizes: dict[int, int] = {}  # of segments that are not written to any more
        self.index: tuple[list[int], list[Segment]] = ([], [])  # replaced as a whole, never changed
        self.show(segments)

    def show(self, segments: list[Segment]) -> None:
        """The log consists of these from now on."""
        self.index = ([each.base for each in segments], segments)

    def read(self, lsn: int) -> Stored:
        """The record at *lsn*, checked; CorruptStore if it does not pass, Closed if `close` was called."""
        # Flat on purpose: every delivery comes through here.
        mapped = self.mapped
        if (at := lsn - mapped.first) >= 0:
            stored = self._read_mapped(mapped, at, lsn)
            if stored is not None:
                return stored
        # Records do not change, so what was read with the last one, or to follow others, serves for
        # those behind it, if it passes.
        for recent, first, block in (self._recent, self.followed):
            at = lsn - first
            if recent is not None and 0 <= at <= len(block) - HEADER_BYTES:
                crc, length, low, _, ms, kind, flags, queue = UNPACK(block, at)
                stop = at + HEADER_BYTES + length
                if (
                    stop <= len(block)
                    and low == lsn & LOW
                    and crc32c(block[at + CRC_FROM : stop], recent.seed) == crc
                ):
                    return Stored(kind, flags, queue, recent.wall_ms + ms, block[at + HEADER_BYTES : stop])
        bases, segments = self.index
        each = segments[-1]
        if lsn < each.base:
            each = segments[max(0, bisect_right(bases, lsn) - 1)]
        fd = self._readers.get(each.base)
        stored = None
        if fd is not None:
            # Another thread may close this descriptor meanwhile, and the number may then
            # name another file: the checksum, seeded by the segment's base, tells.
            try:
                stored = self._read(fd, each, lsn)
            except OSError as error:
                pass_on(error)
                stored = None
        if stored is None:
            with self.files:
                stored = self._read_or_explain(each, lsn)
        return stored

    def at_hand(self, lsn: int, kind: int) -> tuple[int, int, bytes] | None:
        """Flags, time and payload of the record at *lsn*, if it is of that *kind*, in memory, and passes."""
        each, first, block = self._recent
        at, size = lsn - first, len(block)
        begin = at + HEADER_BYTES
        if at < 0 or begin > size or each is None:
            return None
        crc, length, low, _, ms, said, flags, _ = UNPACK(block, at)
        stop = begin + length
        if said != kind or low != lsn & LOW or stop > size:
            return None
        if crc32c(block[at + CRC_FROM : stop], each.seed) != crc:
            return None
        return flags, each.wall_ms + ms, block[begin:stop]

    def read_run(
        self, positions: Sequence[int], start: int, kind: int
    ) -> tuple[list[int], list[int], list[bytes]]:  # fmt: skip
        """Flags, times and payloads of the records at *positions* from index *start* on.

        As many as are of that *kind*, stand in one block that is read, and pass: perhaps none.  The others
        are for `read`, which says what is wrong.
        """
        # Flat on purpose: every delivery of a batch comes through here.
        flags: list[int] = []
        times: list[int] = []
        payloads: list[bytes] = []
        each, first, block = self._block(positions, start)
        if each is None:
            return flags, times, payloads
        # Local names: each is asked for once a message.
        head_bytes, crc_from, low_bits = HEADER_BYTES, CRC_FROM, LOW
        unpack, seed, wall_ms, last = UNPACK, each.seed, each.wall_ms, len(block) - head_bytes
        for lsn in islice(positions, start, None):
            at = lsn - first
            if not 0 <= at <= last:
                break
            crc, length, low, _, ms, said, flag, _ = unpack(block, at)
            stop = at + head_bytes + length
            if (
                said != kind
                or low != lsn & low_bits
                or stop > last + head_bytes
                or crc32c(block[at + crc_from : stop], seed) != crc
            ):
                break
            flags.append(flag)
            times.append(wall_ms + ms)
            payloads.append(block[at + head_bytes : stop])
        return flags, times, payloads

    def _block(self, positions: Sequence[int], start: int) -> Block:
        """Bytes with the record at positions[start], and as a rule with those behind it."""
        lsn = positions[start]
        for each, first, block in (self._recent, self.followed):
            at = lsn - first
            if each is not None and 0 <= at <= len(block) - HEADER_BYTES:
                _, length, low, *_ = UNPACK(block, at)
                if low == lsn & LOW and at + HEADER_BYTES + length <= len(block):
                    return each, first, block
        each = self.segment_of(lsn)
        if self._guess >= READ_BYTES_MAX:
            return None, 0, b""
        reach = READ_BYTES_MAX - self._guess
        last = positions[bisect_right(positions, lsn + reach, start) - 1]  # they ascend, as a rule
        size = min(max(0, last - lsn), reach) + self._guess
        data = b""
        if lsn >= self.mapped.first:  # as in `_read_mapped`
            data = self.mapped.read(lsn, min(lsn + size, self._log.end))
        if not data:
            fd = self._readers.get(each.base)
            if fd is None or lsn < each.base:
                return None, 0, b""
            try:  # as in `read`
                data = self._pread(fd, size, each.offset(lsn))
            except OSError as error:
                pass_on(error)
                return None, 0, b""
        self._recent = each, lsn, data
        return each, lsn, data

    def _read_mapped(self, mapped: Mapped, at: int, lsn: int) -> Stored | None:
        """The record *at* so many bytes from where *mapped* begins, or began; None if it does not pass.

        Not a byte behind the log's end is touched: another process may have cut the file there.
        """
        most, each = self._log.end - lsn, mapped.segment
        try:
            data = mapped.window[at : at + min(self._ahead(lsn), most)]
            if len(data) < HEADER_BYTES or each is None:
                return None
            crc, length, low, _, ms, kind, flags, queue = UNPACK(data)
            size = HEADER_BYTES + length
            if low != lsn & LOW or size > most:
                return None
            if size > len(data):
                data = mapped.window[at : at + size]
        except ValueError:  # it was closed meanwhile
            return None
        if crc32c(data[CRC_FROM:size], each.seed) != crc:
            return None
        if len(data) <= READ_BYTES_MAX:
            self._recent = each, lsn, data
        return Stored(kind, flags, queue, each.wall_ms + ms, data[HEADER_BYTES:size])

    def _read(self, fd: int, each: Segment, lsn: int) -> Stored | None:
        """The record; None if it does not pass its checksum."""
        offset = lsn - each.base + segment.HEADER_BYTES
        data = self._pread(fd, max(self._guess, self._ahead(lsn)), offset)
        if len(data) < HEADER_BYTES:
            return None
        crc, length, low, _, ms, kind, flags, queue = UNPACK(data)
        size = HEADER_BYTES + length
        if low != lsn & LOW or lsn + size > each.limit:
            return None
        self._guess = READ_BYTES if size <= READ_BYTES else min(READ_BYTES_MAX, size)
        if size > len(data):
            data += self._pread(fd, size - len(data), offset + len(data))
        if crc32c(data[CRC_FROM:size], each.seed) != crc:
            return None
        if len(data) <= READ_BYTES_MAX:
            self._recent = each, lsn, data
        return Stored(kind, flags, queue, each.wall_ms + ms, data[HEADER_BYTES:size])

    def _ahead(self, lsn: int) -> int:
        """How many bytes to read from *lsn* on: many, if it goes on where the last read ended."""
        _, first, block = self._recent
        return READ_AHEAD_BYTES if 0 <= lsn - first <= len(block) else READ_BYTES

    def _read_or_explain(self, each: Segment, lsn: int) -> Stored:
        path = self.path(each)
        try:
            # Before the first segment: it has moved since it was looked up, and its segment is gone.
            stored = self._read(self._reader(each), each, lsn) if lsn >= each.base else None
        except OSError as error:
            pass_on(error)
            if error.errno not in DAMAGE:
                raise storage_error(path, error) from error
            why = (
                "the file is missing" if error.errno == errno.ENOENT else f"the disk fails, {error.strerror}"
            )
            raise CorruptStore(
                path, f"message {lsn} cannot be read ({why}): {ADVICE}", each.offset(lsn), (lsn,)
            ) from error
        if stored is None:
            raise CorruptStore(
                path,
                f"message {lsn} does not pass its checksum; everything else is served: {ADVICE}",
                each.offset(lsn),
                (lsn,),
            )
        return stored

    def segment_of(self, lsn: int) -> Segment:
        """The segment that the position *lsn* is in."""
        bases, segments = self.index
        return segments[max(0, bisect_right(bases, lsn) - 1)]

    def bytes_at(self, lsn: int, start: int, size: int) -> bytes:
        """*size* bytes of the segment of *lsn*, from *start* bytes behind that on, unchecked."""
        each = self.segment_of(lsn)
        with self.files:
            return self._disk.pread(self._reader(each), size, each.offset(lsn) + start)

    def checksum(self, lsn: int) -> int:
        """What the record at *lsn* has in its checksum field."""
        return int(CRC.unpack(self.bytes_at(lsn, 0, CRC.size))[0])

    def _reader(self, each: Segment) -> int:
        """A descriptor to read *each* with; `files` is held."""
        if self._closed:  # a thread that was reading meanwhile must not open it again
            raise Closed(f"{self._directory}: the store was closed, or read anew, meanwhile")
        fd = self._readers.get(each.base)
        if fd is not None and is_anothers(self._disk, fd):  # then another one serves as well
            with suppress(OSError):
                self._disk.close(self._readers.pop(each.base))
            fd = None
        if fd is None:
            if len(self._readers) >= OPEN_SEGMENTS_MAX:
                self._disk.close(self._readers.pop(next(iter(self._readers))))
            fd = self._readers[each.base] = self._disk.open(self.path(each))
        return fd

    def older_bytes(self) -> int:
        """Bytes of all segments but the last, whose size still changes."""
        return sum(map(self.size_of, self.index[1][:-1]))

    def size_of(self, each: Segment) -> int:
        """Bytes of a segment that is not the last one."""
        size = self._sizes.get(each.base)
        if size is None:
            with self.files, suppress(OSError, Closed):  # only an estimate: counted as full then
                size = self._sizes[each.base] = self._disk.size(self._reader(each))
        return each.capacity if size is None else size

    def disk_bytes(self) -> int:
        """Bytes of all segments, void and reserved ones included."""
        with self.files:
            total = 0
            for each in self.index[1]:
                with explain(self.path(each)), suppress(FileNotFoundError):  # given back since
                    total += self._disk.size(self._reader(each))
            return total

    def close_segment(self, each: Segment) -> None:
        """Close what is open of a segment that is dropped."""
        with self.files:
            if each.base in self._readers:
                self._disk.close(self._readers.pop(each.base))
            self._sizes.pop(each.base, None)

    def after_fork(self) -> None:
        self.files = threading.RLock()

    def reset(self, segments: list[Segment]) -> None:
        """The log consists of these, and no other file of it is to be read any more."""
        with self.files:
            self._close_all()
        self.show(segments)

    def close(self) -> None:
        with self.files:
            self._closed = True
            self._close_all()

    def _close_all(self) -> None:
        try:
            self._close_each()
        finally:
            if self._readers:  # one of them cannot be closed: the others are
                self._close_all()

    def _close_each(self) -> None:
        while self._readers:
            self._disk.close(self._readers.popitem()[1])

    def path(self, each: Segment) -> str:
        return paths.segment(self._directory, each.base)
