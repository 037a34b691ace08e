"""The end of the log: records are appended here.  One writer at a time; the caller sees to that.

    append ──► is there room?  ──► one copy, or one pwrite, at `end` ──► `end` moves, on the page too
                 │ no
                 └─► make_room (room.py), before anything is written

Nothing here begins a segment, waits for the disk, or calls the store.  `make_room` does all that;
it is called before a record has its position, and never between a write and the end that says so.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from mq.errors import StorageError, UsageError
from mq.forks import is_held

from . import record, segment, shared
from .crc import crc32c
from .disk import Disk, write_all
from .explain import LEFT, LEFT_WHY, storage_error
from .failure import Failure
from .locks import SyncLock
from .mapped import map_end, unmapped
from .owner import Owner
from .reader import Reader
from .real_disk import file_bytes_max
from .record import AFTER_CRC, CLAIMS_NOTHING, CRC, HEADER_BYTES, LOW
from .segment import Segment
from .shared import DIRTY, END, SYNCED

Draft = tuple[int, int, int, bytes]  # kind, flags, queue, payload: a record before it has a place

EARLIER_MAX: Final = 4  # descriptors of segments that are written to no more, and not on the disk yet

MakeRoom = Callable[[int, int, Collection[int], int], int]
"""(time, size, kinds, count) → the position of the first record, for which there is room then."""


class Tail:
    spread: Any = None  # processes take turns: none takes what another one does
    end: int  # where the next record goes; changed in a turn only, as is all that is not marked
    make_room: MakeRoom

    def __init__(
        self, disk: Disk, directory: str, mark: memoryview, segments: list[Segment], end: int
    ) -> None:  # fmt: skip
        self.disk, self.directory = disk, directory
        self.mark = mark  # the page; one of its own, once the files are let go of
        self.owner = Owner()
        self.reader = Reader(disk, directory, segments, self)
        self.sync_lock = SyncLock(disk)
        self.failure = Failure(disk, directory, self, self.sync_lock)
        self.head = segments[0].base if segments else 0  # the log begins here
        self._named_head = 0  # the latest head that a record names; ahead of `head` until `trim` has dropped
        self.epoch = segment.epoch_of(segments)  # part of receipts; goes into every fence
        self.last_ms = 0  # the time of the last record that another process appended
        # The segment that is written to.
        self.fd = -1
        self.writing: tuple[int, Segment] | None = None  # the same, and which one that is: for a sync
        self.using = threading.RLock()  # held while the disk syncs: no descriptor is closed meanwhile
        # Descriptors of earlier ones, until a sync through them.  The kernel may write a page by itself, and
        # fail.  It says so, once, to each descriptor that was open then.  To one that is opened later it
        # does only if no program has heard of it yet, and the file did not leave the memory meanwhile.
        self._earlier: list[tuple[int, Segment]] = []
        self._pwrite = disk.pwrite
        self._seed = self._created_ms = 0
        self.shift = 0  # a position less this is an offset in the file
        self.latest_ms = 0  # what a record's time has room for
        # What may be appended without `make_room`.
        self.allocated = 0  # bytes up to here are reserved
        self.room = 0  # an append that ends before here may go ahead
        self.look_ms = 0  # and one that comes before then
        self._growth: Callable[[], object] | None = None  # called as the log grows next: `await_growth`
        self.mapped = self.reader.mapped = unmapped()  # a part of what is reserved
        self.unsettled = False  # interrupted between two segments: to be rebased before its next use
        # In a turn without LOCK: that this process died inside shows in INSIDE, so that a single record,
        # which is there whole or not at all, need not be announced in DIRTY (storage/bias.py).
        self.biased = False
        self.end = end

    @property
    def synced(self) -> int:
        """Everything below is on the disk."""
        return self.mark[SYNCED]

    @property
    def segments(self) -> list[Segment]:
        """Oldest first.  Not to be changed."""
        return self.reader.index[1]

    # ── appending ──────────────────────────────────────────────────────────────────

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        """Append one record; its position.  Whatever becomes of this process, the file has the bytes then."""
        # Flat on purpose, and the codec written out: every publish, delivery and ack comes through here,
        # and a Python call costs a tenth of it.
        length, lsn, ms = len(payload), self.end, now_ms - self._created_ms
        end = lsn + HEADER_BYTES + length
        if end > self.room or now_ms > self.look_ms or ms < 0:
            lsn = self.make_room(now_ms, HEADER_BYTES + length, (kind,), 1)
            end, ms = lsn + HEADER_BYTES + length, max(0, now_ms - self._created_ms)  # clocks may be wrong
        lag = lsn - self.mark[SYNCED]
        if lag > CLAIMS_NOTHING:
            lag = CLAIMS_NOTHING
        rest = AFTER_CRC.pack(length, lsn & LOW, lag, ms, kind, flags, queue) + payload
        data = CRC.pack(crc32c(rest, self._seed)) + rest
        mapped = self.mapped
        copies = end <= mapped.ready or mapped.reach(lsn, end)
        # Behind the last call: a signal's handler may fork there, and this be the child (`Log.after_fork`).
        if not self.biased:
            self.mark[DIRTY] = 1
        try:
            if copies:
                mapped.window[lsn - mapped.first : end - mapped.first] = data
            else:
                done = self._pwrite(self.fd, data, lsn - self.shift)
                if done != len(data):
                    self.write(data, lsn, done)
            self.end = self.mark[END] = end
        except OSError as error:
            raise self._refused(error, lsn, len(data)) from error
        except BaseException as error:
            if copies and isinstance(error, ValueError):  # it is closed: this is the child of a fork
                raise self.fail(OSError(LEFT, LEFT_WHY)) from error
            if not isinstance(error, StorageError):
                self.mark[DIRTY] = 1
            raise
        if not self.biased:
            self.mark[DIRTY] = 0
        return lsn

    def append_group(self, now_ms: int, drafts: Sequence[Draft], *, atomic: bool = True) -> list[int]:
        """Append records at once; their positions.  *atomic*: all are there after a crash, or none."""
        kinds, flags, numbers, payloads = map(list, zip(*drafts, strict=True))
        return self.append_columns(now_ms, kinds, flags, numbers, payloads, atomic=atomic)

    def append_columns(
        self, now_ms: int, kinds: list[int], flags: list[int], numbers: list[int], payloads: list[bytes], *,
        atomic: bool = True,
    ) -> list[int]:  # fmt: skip
        """`append_group`, with a list for each field (*numbers*: of queue): nothing is made for a record."""
        count = len(payloads)
        size = sum(map(len, payloads)) + HEADER_BYTES * count
        if size > record.GROUP_BYTES_MAX:
            raise UsageError(
                f"{size} bytes at once; {record.GROUP_BYTES_MAX} is the most: publish in smaller batches"
            )
        if self.end + size > self.room or now_ms > self.look_ms or now_ms < self._created_ms:
            self.make_room(now_ms, size, set(kinds), count)
            now_ms = max(now_ms, self._created_ms)
        chain = record.CONTINUES if atomic else 0
        flags = [*[each | chain for each in flags[:-1]], flags[-1]]
        start = self.end
        data, positions = record.encode_run(
            self._seed, start, self.mark[SYNCED], now_ms - self._created_ms, kinds, flags, numbers, payloads
        )
        mapped, end = self.mapped, start + size
        copies = end <= mapped.ready or mapped.reach(start, end)
        self.mark[DIRTY] = 1
        if copies:
            try:
                mapped.window[start - mapped.first : end - mapped.first] = data
            except ValueError as error:
                raise self.fail(OSError(LEFT, LEFT_WHY)) from error
        else:
            self.write(data, start)
        self.end = self.mark[END] = end
        self.mark[DIRTY] = 0
        return positions

    def append_head(self, now_ms: int, head: int) -> tuple[int, int]:
        """Say that the log begins at *head*; the record's position, and the head that it names.

        Once synced, `trim` may follow.  A later head that a record names already is repeated instead: an
        earlier one behind it would send a reader to segments that `trim` unlinks.
        """
        head = max(head, self._named_head)
        position = self.append(now_ms, record.HEAD, 0, 0, record.encode_head(head))
        self._named_head = head
        return position, head

    def write(self, data: bytes, lsn: int, done: int = 0) -> None:
        """Write *data*, which belongs at *lsn*, from its byte *done* on."""
        try:
            write_all(self.disk, self.fd, data[done:], lsn + done - self.shift)
        except OSError as error:
            raise self._refused(error, lsn, len(data)) from error

    def _refused(self, error: OSError, lsn: int, size: int) -> StorageError:
        """The error for a write of *size* bytes to the log that the system refused.

        EFBIG is a limit of this process (RLIMIT_FSIZE), lowered since the room was reserved, and no fault
        of the disk.  What was written in part is taken back: a body that ends in zeros would look whole.
        """
        if error.errno != errno.EFBIG:
            return self.fail(error)
        offset = lsn - self.shift
        try:
            write_all(self.disk, self.fd, bytes(max(0, min(size, file_bytes_max() - offset))), offset)
        except OSError as again:
            return self.fail(again)
        self.mapped.close()
        self.allocated, self.room = lsn, 0  # the next append looks how long the file may be
        self.mark[DIRTY] = int(self.unsettled)
        return storage_error(self.reader.path(self.segments[-1]), error)

    def fail(self, error: OSError) -> StorageError:
        """The error to raise for a write to the last segment that failed: see `Failure`."""
        return self.failure.fail(error, self.reader.path(self.segments[-1]), self.fd)

    # ── a thread that syncs ────────────────────────────────────────────────────────

    def await_growth(self, ring: Callable[[], object]) -> bool:
        """Have *ring* called as the log grows next; False if some of it is to be synced already.

        Called with the mutex of the store: no thread of this process appends meanwhile.  An append asks
        nothing more for this than it does anyway: it comes by `make_room`, as it does once a second.
        *ring* takes no lock, and may be called more than once, or for an append that is refused then.
        """
        if self.end > self.synced:
            return False
        self._growth = ring
        self.look_ms = -1  # before every time: the next append looks
        return True

    def grows(self) -> None:
        """A record is about to be appended, or was followed; called in a turn."""
        if self._growth:
            self._growth()
            self._growth = None  # behind the call: if a handler raises before it, the next append calls

    # ── the segment that is written to ─────────────────────────────────────────────

    def open_to_write(self, each: Segment) -> tuple[int, int]:
        """A descriptor, and the size of the file."""
        fd = self.disk.open(self.reader.path(each), write=True)
        try:
            return fd, self.disk.size(fd)
        except BaseException:
            self.disk.close(fd)
            raise

    def enter(self, last: Segment, fd: int, size: int) -> None:
        """Make *last*, a file of *size* bytes that *fd* writes to, the segment that is written to."""
        self.mapped.close()
        # The new one first: a sync that begins after the old one is closed must not get that.
        before, self.writing, self.fd = self.writing, (fd, last), fd
        if before:
            self._earlier.append(before)
            self.let_go_of_synced()
        self._seed, self.shift = last.seed, last.base - segment.HEADER_BYTES
        self._created_ms, self.latest_ms = last.created_ms, last.created_ms + LOW
        self.look_ms = 0  # the next append looks
        self.reserved(last, size)
        self.room = 0  # the next append looks for itself

    def reserved(self, last: Segment, size: int) -> None:
        """The file of *last* has *size* bytes: this process may write up to there."""
        size = max(0, min(size, file_bytes_max()) - segment.HEADER_BYTES)
        self.allocated = min(last.limit, last.base + size)

    def map(self, *, enough: bool) -> None:
        """Have mapped what is reserved at the end; without *enough* room, nothing."""
        limit = self.allocated if self.owner.may_map and enough else 0
        if self.mapped.limit != limit:
            self.mapped.close()
            if limit and (mapped := map_end(self.disk, self.fd, self.segments[-1], self.end, limit)):
                self.mapped = self.reader.mapped = mapped
                if self.fd < 0:  # the child of a fork, made in here: it has closed the one before
                    mapped.close()

    # ── the segments before it, until they are synced ──────────────────────────────

    def descriptor_of(self, each: Segment) -> int:
        """One that was open when *each* was written to; -1: there is none.  Called with `using` held."""
        return next((fd for fd, earlier in self._earlier if earlier.base == each.base), -1)

    def is_crowded(self) -> bool:
        """Whether a sync is to come before another segment is begun."""
        return len(self._earlier) >= EARLIER_MAX and self.synced < self.end

    def let_go_of_synced(self) -> None:
        """Close the descriptors of earlier segments that are on the disk, unless a sync uses them now."""
        if not is_held(self.using):
            with self.using:
                self.close_synced()

    def close_synced(self) -> None:
        """The same, with `using` held.

        A process that only follows keeps no more than EARLIER_MAX: the one that writes has them, too.
        """
        synced = self.synced
        self._close_earlier(shared.NO_LIMIT if synced >= self.end else synced, EARLIER_MAX)

    def _close_earlier(self, upto: int, most: int) -> None:
        """Those of segments that end at *upto* or sooner, and the first of more than *most*."""
        earlier = self._earlier
        while earlier and (earlier[0][1].limit <= upto or len(earlier) > most):
            self.disk.close(earlier.pop(0)[0])

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let go of the files and leave the log as it is.  A thread that waits for the disk is told."""
        with self.using:
            self.mapped.close()
            self.mark = shared.detached(self.mark)
            # The descriptor of that lock is closed next: no thread may sync any more.
            self.sync_lock.leave()
            try:
                self._close_earlier(shared.NO_LIMIT, 0)
                self.reader.close()
            finally:
                # Taken out before it is closed: its number may be another file's a moment later.
                fd, self.fd, self.writing = self.fd, -1, None
                if fd >= 0:
                    self.disk.close(fd)

    def leave_to_parent(self) -> None:
        """In a child of a fork: the files, and the locks that other threads held, are the parent's."""
        self.using = threading.RLock()
        self._pwrite = self.disk.pwrite
        self.reader.after_fork()
