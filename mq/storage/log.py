"""The log: append, rotate, sync, read.  One writer at a time; many readers.

    append ──► one pwrite at `end` ──► `end` moves ──► sync(end): one fdatasync for all who wait

A failed write or fsync fails the log for good.  After a failed fsync the kernel may
have marked the lost pages clean, so that a second one, even on a fresh descriptor,
reports success for bytes that are gone.  Nobody retries; the next recovery rewrites
what was never confirmed.

The caller serialises appends.  sync and read may be called from any thread at any time.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from crc32c import crc32c

from mq.errors import CorruptStore, DiskFull, StorageError, StoreFailed, UsageError

from . import record, segment, shared
from .disk import NO_ROOM, Disk, storage_error, write_all
from .identity import Identity
from .record import AFTER_CRC, CRC
from .reserve import Reserve
from .segment import Segment

UNPACK: Final = record.HEADER.unpack_from

ALLOCATE_BYTES: Final = 1 << 20  # room is reserved in steps of this; a full disk is noticed here
STARVED_BYTES: Final = 16 << 10  # the same, on a full disk
OPEN_SEGMENTS_MAX: Final = 4  # descriptors kept for reading
READ_BYTES: Final = 512  # what a read asks for before it knows the record's length
READ_BYTES_MAX: Final = 64 << 10
FENCE_BYTES: Final = record.HEADER_BYTES + record.FENCE_PAYLOAD.size
SEGMENT_BYTES_MIN: Final = 1 << 10

Draft = tuple[int, int, int, bytes]  # kind, flags, queue, payload: a record before it has a place


class Stored(msgspec.Struct, gc=False):
    """A record read back from its position."""

    kind: int
    flags: int
    queue: int
    time_ms: int  # since 1970, in store time
    payload: bytes


class Round:
    """Those who wait for the end of one sync."""

    def __init__(self) -> None:
        self.followers = 0
        self.done = threading.Event()


class Log:
    end: int  # where the next record goes
    synced: int  # everything below is on the disk

    def __init__(
        self, disk: Disk, directory: str, identity: Identity, mark: memoryview,
        segments: list[Segment], end: int, segment_bytes: int | None = None,
    ) -> None:  # fmt: skip
        """Continue the log that ends at *end*, all on the disk; without *segment_bytes*, only read it."""
        self._disk, self.directory, self._identity, self._mark = disk, directory, identity, mark
        self._pread, self._pwrite = disk.pread, disk.pwrite
        self.segment_bytes = segment_bytes or 0
        # Replaced as a whole, never changed: readers look at it without a lock.
        self._index = ([each.base for each in segments], segments)
        self.head = segments[0].base if segments else 0
        self._allocated = 0  # bytes up to here are reserved
        self._room = 0  # an append that ends before here may go ahead
        self.reserve = Reserve(disk, os.path.join(os.path.dirname(directory), "reserve"))
        self.reserve_bytes = 0  # how much is to be kept back
        self.refusable: frozenset[int] = frozenset()  # kinds that may not use the room kept back
        self.starved = False  # the room kept back is in use
        self._fd = -1  # of the last segment, for writing
        self._retired: list[int] = []  # of earlier ones: a sync may still be using them
        self._readers: dict[int, int] = {}  # descriptors by base
        self._files = threading.Lock()
        self._sync = threading.Lock()  # held while the disk syncs
        self._gate = threading.Lock()  # held for a moment: who leads, and who follows
        self._leading = False
        self._round = Round()
        self._company = 1  # how many the last round served
        self._sync_seconds = 0.0  # how long its fdatasync took
        self._guess = READ_BYTES
        self.failure: StorageError | None = None
        self.grown: Callable[[], None] = _nothing  # called when room was reserved
        self.end = self.synced = end
        if segments and segment_bytes:
            fd = disk.open(self._path(segments[-1]), write=True)
            self._enter(segments[-1], fd, disk.size(fd))

    @property
    def segments(self) -> list[Segment]:
        """Oldest first.  Not to be changed."""
        return self._index[1]

    # ── writing ────────────────────────────────────────────────────────────────────

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        """Append one record; its position.  The bytes are with the kernel when this returns."""
        # Flat on purpose: every publish, delivery and ack comes through here, and a
        # Python call costs a tenth of it.
        size = 24 + len(payload)
        lsn = self.end
        if lsn + size > self._room or now_ms > self._latest_ms:
            lsn = self._make_room(now_ms, size, (kind,))
        lag = lsn - self.synced
        rest = (
            AFTER_CRC.pack(
                len(payload), lsn & 0xFFFF_FFFF, lag if lag < 0xFFFF_FFFF else 0xFFFF_FFFF,
                now_ms - self._created_ms, kind, flags, queue,
            )
            + payload
        )  # fmt: skip
        mark = self._mark
        mark[2] = 1  # DIRTY
        try:
            done = self._pwrite(self._fd, CRC.pack(crc32c(rest, self._seed)) + rest, lsn - self._shift)
        except OSError as error:
            raise self._fail(error) from error
        if done != size:
            self._write_rest(CRC.pack(crc32c(rest, self._seed)) + rest, lsn, done)
        self.end = mark[1] = lsn + size
        mark[2] = 0
        return lsn

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """Append records in one write; their positions.  *atomic*: all are there after a crash, or none."""
        size = sum(24 + len(payload) for *_, payload in drafts)
        if size > record.GROUP_BYTES_MAX:
            raise UsageError(
                f"{size} bytes at once; {record.GROUP_BYTES_MAX} is the most: publish in smaller batches"
            )
        if self.end + size > self._room or now_ms > self._latest_ms:
            self._make_room(now_ms, size, {draft[0] for draft in drafts})
        start = lsn = self.end
        ms, last = now_ms - self._created_ms, len(drafts) - 1
        parts, positions = [], []
        for index, (kind, flags, queue, payload) in enumerate(drafts):
            if atomic and index != last:
                flags |= record.CONTINUES
            parts.append(record.encode(self._seed, lsn, self.synced, ms, kind, flags, queue, payload))
            positions.append(lsn)
            lsn += len(parts[-1])
        self._mark[shared.DIRTY] = 1
        self._write_rest(b"".join(parts), start, 0)
        self.end = self._mark[shared.END] = lsn
        self._mark[shared.DIRTY] = 0
        return positions

    def _write_rest(self, data: bytes, lsn: int, done: int) -> None:
        try:
            write_all(self._disk, self._fd, data[done:], lsn + done - self._shift)
        except OSError as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError, path: str = "") -> StorageError:
        """Note that the disk's state is unknown from here on; the error to raise."""
        self._mark[shared.FAILED] = self._mark[shared.DIRTY] = 1
        path = path or self._path(self.segments[-1])
        self.failure = StoreFailed(
            path,
            f"{error.strerror or error}; what was being written is there whole or not at all:"
            " re-open the store",
        )
        return self.failure

    def check(self) -> None:
        """Raise what stands in the way of another append."""
        if self.failure:
            raise StoreFailed(self.failure.path, self.failure.reason)

    # ── room ───────────────────────────────────────────────────────────────────────

    def _make_room(self, now_ms: int, size: int, kinds: Collection[int]) -> int:
        """Reserve *size* bytes at the end, in a new segment if need be; the position of the first.

        A full disk is refused here, before anything is torn.  What takes messages out may
        use the room kept back for that; then everything comes through here, until there is
        room to keep back again.
        """
        refusable = not self.refusable.isdisjoint(kinds)
        while True:
            try:
                if refusable:
                    self.reserve.hold(self.reserve_bytes)
                    self.starved = False
                if not self.segments or self.end + size > self.segments[-1].limit or now_ms > self._latest_ms:
                    self.rotate(now_ms, size)
                self._allocate(size)
                break
            except OSError as error:
                if refusable or error.errno not in NO_ROOM or not self._give_room():
                    self.grown()  # perhaps there is something to clean
                    raise storage_error(self.directory, error) from error
        self._room = 0 if self.starved else self._allocated
        self.grown()
        return self.end

    def _allocate(self, size: int) -> None:
        """Reserve *size* bytes in the last segment."""
        last = self.segments[-1]
        if self.end + size > self._allocated:
            step = STARVED_BYTES if self.starved else ALLOCATE_BYTES
            target = min(last.limit, max(self.end + size, self._allocated + step))
            self._disk.allocate(self._fd, last.offset(self._allocated), target - self._allocated)
            self._allocated = target

    def _give_room(self) -> bool:
        self.starved = True
        return self.reserve.release()

    def rotate(self, now_ms: int, size: int = 0) -> None:
        """Go on in a new segment, whose header and name are on the disk before it is used."""
        last = self.segments[-1] if self.segments else None
        self.begin_segment(now_ms, last.limit if last else 0, size, void_from=self.end)

    def roll(self, now_ms: int) -> None:
        """Go on in a new segment, so that the one in use can be cleaned."""
        try:
            self.rotate(now_ms)
        except OSError as error:
            raise storage_error(self.directory, error) from error

    def begin_segment(self, now_ms: int, base: int, size: int, *, void_from: int) -> None:
        """Create the segment at *base* with room for *size* bytes, fence [void_from, base), go on in it."""
        capacity = max(self.segment_bytes, FENCE_BYTES + size)
        number = self.segments[-1].number + 1 if self.segments else 0
        new = Segment(number, base, capacity, now_ms, record.seed(self._identity.key, base))
        path = self._path(new)
        fence = record.FENCE_PAYLOAD.pack(void_from, self.head, capacity, now_ms)
        data = record.encode(new.seed, base, self.synced, 0, record.FENCE, 0, 0, fence)
        fd, size = self._create(path, new)
        # Dirty from here on: an interruption between these lines must not leave a log that
        # writes to one segment and counts in another.
        self._mark[shared.DIRTY] = 1
        bases, segments = self._index
        self._index = ([*bases, base], [*segments, new])
        self._enter(new, fd, size)
        self._write_rest(data, base, 0)
        self.end = self._mark[shared.END] = base + len(data)
        self._mark[shared.DIRTY] = 0

    def _create(self, path: str, new: Segment) -> tuple[int, int]:
        """The file of a segment, its header and name on the disk; descriptor and size."""
        disk = self._disk
        if disk.exists(path):
            # Begun, and never used.  Its name is made anew, for the sync of the directory
            # that failed or never came would not be made up for by another.
            disk.unlink(path)
        fd = disk.open(path, write=True, create=True)
        try:
            write_all(disk, fd, segment.encode_header(self._identity, new), 0)
            try:
                disk.sync(fd)
                disk.sync_directory(self.directory)
            except OSError as error:
                raise self._fail(error, path) from error
            if not self.starved:
                disk.allocate(fd, segment.HEADER_BYTES, min(new.capacity, ALLOCATE_BYTES))
            return fd, disk.size(fd)
        except BaseException:
            disk.close(fd)
            raise

    def _enter(self, last: Segment, fd: int, size: int) -> None:
        """Make *last*, a file of *size* bytes that *fd* writes to, the segment that is written to."""
        if self._fd >= 0:
            self._retired.append(self._fd)
            if self._sync.acquire(blocking=False):
                self._close_retired()
                self._sync.release()
        self._fd = fd
        self._seed, self._shift = last.seed, last.base - segment.HEADER_BYTES
        self._created_ms, self._latest_ms = last.created_ms, last.created_ms + record.LOW
        self._allocated = min(last.limit, last.base + max(0, size - segment.HEADER_BYTES))
        self._room = 0 if self.starved else self._allocated

    def _close_retired(self) -> None:
        while self._retired:
            self._disk.close(self._retired.pop())

    # ── the head ───────────────────────────────────────────────────────────────────

    def append_head(self, now_ms: int, head: int) -> int:
        """Say that the log begins at *head*; the record's position.  Once synced, drop_head may follow."""
        return self.append(now_ms, record.HEAD, 0, 0, record.HEAD_PAYLOAD.pack(head))

    def drop_head(self) -> Segment:
        """The oldest segment is not part of the log any more; unlink it with `unlink`."""
        bases, segments = self._index
        if self._fd >= 0:
            self._mark[shared.HEAD] = bases[1]
        self.head = bases[1]
        self._index = (bases[1:], segments[1:])
        return segments[0]

    def unlink(self, dropped: Segment) -> int:
        """Give back the room of a segment that was dropped; how many bytes.

        Names go one at a time and in order: the directory is synced before the next, so
        a power cut never leaves a gap.
        """
        with self._files:
            fd = self._reader(dropped)
            size = self._disk.size(fd)
            self._disk.close(self._readers.pop(dropped.base))
        self._disk.sync_directory(self.directory)
        self._disk.unlink(self._path(dropped))
        self._disk.sync_directory(self.directory)
        return size

    # ── syncing ────────────────────────────────────────────────────────────────────

    def sync(self, upto: int) -> None:
        """Return when everything below *upto* is on the disk.

        Group commit: whoever comes first syncs for all who wait.  Those who come while a
        sync is running wait for its end together, and one of them does the next.
        """
        while self.synced < upto:
            leads = False
            try:
                with self._gate:
                    round = self._round
                    if self._leading:
                        round.followers += 1
                    else:
                        leads = True  # first, so that an interruption here cannot leave nobody leading
                        self._leading = True
                if not leads:
                    round.done.wait()
                elif self.synced < upto:
                    self._gather()
                    with self._sync:
                        self._sync_now()
            finally:
                if leads:
                    self._end_round()

    def _gather(self) -> None:
        """In company, let the others write first, for no longer than the disk takes anyway.

        Threads that a sync has released are soon back with their next message; without
        this the first of them would sync for itself alone.
        """
        if self._company > 1:
            give_up = time.perf_counter() + self._sync_seconds
            while self._round.followers + 1 < self._company and time.perf_counter() < give_up:
                time.sleep(0)  # the others need the interpreter, not this processor

    def _end_round(self) -> None:
        with self._gate:
            ended, self._round = self._round, Round()
            self._company = ended.followers + 1
            self._leading = False
        ended.done.set()

    def _sync_now(self) -> None:
        """The target is sampled before the fdatasync, so nothing appended during it is claimed."""
        self.check()
        # The descriptor first: a rotation after this line only adds a segment that is
        # synced too, and none is closed while `_sync` is held.
        mark, fd, target = self._mark, self._fd, self.end
        mark[shared.SYNCING] = 1
        begin = time.perf_counter()
        try:
            self._sync_older(fd, target)
            self._disk.sync(fd)
        except OSError as error:
            mark[shared.FAILED] = mark[shared.DIRTY] = 1
            self.failure = StoreFailed(
                self.directory,
                f"fsync failed ({error.strerror}), the outcome is unknown: re-open the store, then look",
            )
            raise self.failure from error
        self._sync_seconds = time.perf_counter() - begin
        self.synced = mark[shared.SYNCED] = target
        mark[shared.SYNCING] = 0
        self._close_retired()

    def _sync_older(self, fd: int, target: int) -> None:
        """Sync the segments in [synced, target) other than the one that *fd* writes to, oldest first."""
        bases, segments = self._index
        first = max(0, bisect_right(bases, self.synced) - 1)
        for each in segments[first : bisect_right(bases, target - 1)]:
            if fd != self._fd or each is not self.segments[-1]:
                own = self._disk.open(self._path(each), write=True)
                try:
                    self._disk.sync(own)
                finally:
                    self._disk.close(own)

    # ── reading ────────────────────────────────────────────────────────────────────

    def read(self, lsn: int) -> Stored:
        """The record at *lsn*, checked; CorruptStore if it does not pass."""
        bases, segments = self._index
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
            except OSError:
                stored = None
        if stored is None:
            with self._files:
                stored = self._read_or_explain(each, lsn)
        return stored

    def _read(self, fd: int, each: Segment, lsn: int) -> Stored | None:
        """The record; None if it does not pass its checksum."""
        offset = lsn - each.base + segment.HEADER_BYTES
        data = self._pread(fd, self._guess, offset)
        if len(data) < 24:
            return None
        crc, length, low, _, ms, kind, flags, queue = UNPACK(data)
        size = 24 + length
        if low != lsn & 0xFFFF_FFFF or lsn + size > each.limit:
            return None
        if size > len(data):
            self._guess = min(READ_BYTES_MAX, size)
            data += self._pread(fd, size - len(data), offset + len(data))
        if crc32c(data[4:size], each.seed) != crc:
            return None
        return Stored(kind, flags, queue, each.created_ms + ms, data[24:size])

    def _read_or_explain(self, each: Segment, lsn: int) -> Stored:
        path = self._path(each)
        try:
            stored = self._read(self._reader(each), each, lsn)
        except OSError as error:
            raise CorruptStore(
                path, f"message {lsn} cannot be read ({error.strerror})", each.offset(lsn), (lsn,)
            ) from error
        if stored is None:
            raise CorruptStore(
                path,
                f"message {lsn} does not pass its checksum; everything else is served",
                each.offset(lsn),
                (lsn,),
            )
        return stored

    def _path(self, each: Segment) -> str:
        return os.path.join(self.directory, each.name)

    def checksum(self, lsn: int) -> int:
        """What the record at *lsn* has in its checksum field."""
        each = self.segments[bisect_right(self._index[0], lsn) - 1]
        with self._files:
            return int.from_bytes(self._disk.pread(self._reader(each), 4, each.offset(lsn)), "little")

    def _reader(self, each: Segment) -> int:
        """A descriptor to read *each* with; `_files` is held."""
        fd = self._readers.get(each.base)
        if fd is None:
            if len(self._readers) >= OPEN_SEGMENTS_MAX:
                self._disk.close(self._readers.pop(next(iter(self._readers))))
            fd = self._readers[each.base] = self._disk.open(self._path(each))
        return fd

    def disk_bytes(self) -> int:
        """Bytes of all segments, void and reserved ones included."""
        with self._files:
            return sum(self._disk.size(self._reader(each)) for each in self.segments)

    # ── closing ────────────────────────────────────────────────────────────────────

    def close(self, now_ms: int) -> None:
        """Sync what was written, say in the log that nothing follows, and let go of the files."""
        try:
            if not self.failure:
                with suppress(DiskFull):  # then the log is all there, and only does not say so
                    self.append(now_ms, record.CLOSED, 0, 0, b"")
                self.sync(self.end)
        finally:
            self.abandon()

    def after_fork(self) -> None:
        """In a child: let go of the parent's files, whoever held the locks there."""
        self._sync, self._files = threading.Lock(), threading.Lock()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files and leave the log as it is."""
        with self._sync, self._files:
            self._close_retired()
            for fd in self._readers.values():
                self._disk.close(fd)
            self._readers.clear()
            if self._fd >= 0:
                self._disk.close(self._fd)
                self._fd = -1


def _nothing() -> None:
    pass
