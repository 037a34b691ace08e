"""The log: append, rotate, sync, read.  One writer at a time; many readers.

    append ──► one copy or pwrite at `end` ──► `end` moves ──► sync(end): one fdatasync for all who wait

A failed write or fsync fails the log for good.  After a failed fsync the kernel may
have marked the lost pages clean, so that a second one, even on a fresh descriptor,
reports success for bytes that are gone.  Nobody retries; the next recovery rewrites
what was never confirmed.

The caller serialises appends, and follows what others appended before it appends.  sync
and read may be called from any thread at any time.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Final, NoReturn

from crc32c import crc32c

from mq.errors import ADVICE, Closed, CorruptStore, StorageError, StoreFailed, UsageError
from mq.forks import Lock, is_held

from . import paths, record, segment, shared
from .commit import GroupCommit
from .disk import Disk, is_anothers, write_all
from .explain import LEFT, LEFT_WHY, NO_DESCRIPTORS, NO_ROOM, REOPEN, explain, pass_on, storage_error
from .glance import Glance
from .identity import Identity
from .reader import Reader
from .real_disk import file_bytes_max
from .record import AFTER_CRC, CRC, FENCE_BYTES
from .reserve import Reserve
from .rewrite import rewrite
from .segment import BadHeader, Event, Scan, Segment, Stretch, is_zero
from .shared import DIRTY, END, FAILED, HEAD, NO_LIMIT, SYNCED, SYNCED_TWIN, SYNCER, SYNCING
from .standing import CHECK_MS, Standing, Trouble
from .tail import map_tail, unmapped

ALLOCATE_BYTES: Final = 1 << 20  # room is reserved in steps of this; a full disk is noticed here
STARVED_BYTES: Final = 16 << 10  # the same, on a full disk
GRANT_BYTES: Final = 256 << 10  # of that room publishes may use so much before the reserve is looked at
AHEAD_BYTES: Final = 128 << 10  # the reserve grows in steps of this, if the disk has so much
FULL_SEGMENT_BYTES: Final = 256 << 10  # a segment begun on a full disk has at least this capacity
FREE_SHARE: Final = 8  # and no segment has more than this part of the room that is free, if that is more
PAGE_BYTES: Final = 4096  # what file systems give room in
SEGMENT_BYTES_MIN: Final = 1 << 10
SYNC_SECONDS: Final = 30.0  # another process may take so long to sync
SYNC_NAP_SECONDS: Final = 50e-6
FOLLOW_BYTES: Final = 64 << 10  # read in one piece
FOLLOW_BYTES_MIN: Final = 16 << 10  # the same, where a part is asked for
LOOK_MS: Final = 1000  # how often what happens rarely is looked for while records are appended
SKEW_MS: Final = 5000  # the wall clock is told apart from store time if they differ by more

IN_THE_LOG: Final = "what was written is in the log, and perhaps not on the disk"

Kept = Callable[[Collection[int], int], tuple[int, int]]
"""Of an append of these kinds, so many records: how much is to be kept back on the disk
before it may go ahead if it is refusable, and how much it must leave of that if it is not."""

Draft = tuple[int, int, int, bytes]  # kind, flags, queue, payload: a record before it has a place


class Doubt(Exception):
    """Another process died inside a sync.  This thread needs the turn before it may sync: see `Log.sync`."""


class Log:
    end: int  # where the next record goes

    def __init__(
        self, disk: Disk, directory: str, identity: Identity, mark: memoryview,
        segments: list[Segment], end: int, segment_bytes: int | None = None,
    ) -> None:  # fmt: skip
        """Continue the log that ends at *end*, all on the disk; without *segment_bytes*, only read it."""
        self._disk, self.directory, self._identity, self._mark = disk, directory, identity, mark
        self._pwrite, self._pread = disk.pwrite, disk.pread
        self.segment_bytes = segment_bytes or 0
        self.reader = Reader(disk, directory, segments, self)
        self.read = self.reader.read
        self.glance = Glance(self.reader)
        self.head = segments[0].base if segments else 0
        self.epoch = segment.epoch_of(segments)  # part of receipts; goes into every fence
        self._allocated = 0  # bytes up to here are reserved
        self._room = 0  # an append that ends before here may go ahead
        self._said_open = False  # something stands behind the last closing record, and is on the disk
        self._closed_at = end  # the end, if the last record says closed
        self._open_behind = end  # the log says that it is open once more than this is on the disk
        self.reserve = Reserve(disk, paths.reserve(paths.store_of(directory)))
        self.kept: Kept = _keep_nothing  # how much is to be kept back, and how much left
        self.refusable: frozenset[int] = frozenset()  # kinds that may not use the room kept back
        self.full = False  # this process met a full disk, and nothing refusable was appended since
        self.way_made = False  # what can be cleaned there was, since something was settled
        self.may_map = False  # what is appended may be copied to the file, where it is mapped
        self._tail = self.reader.tail = unmapped()  # what of it is
        self._fd = -1  # of the last segment, for writing
        self._writing: tuple[int, Segment] | None = None  # the same, and which one that is: for who syncs
        self._retired: list[int] = []  # of earlier ones: a sync may still be using them
        self._sync = threading.RLock()  # held while the disk syncs
        self._sync_fd = -1  # whose lock says which process syncs; -1: no other does
        self._unlock_sync: Callable[[], object] = int
        self.unsettled = False  # interrupted between two segments: to be rebased before its next use
        # In a turn without LOCK: that this process died inside shows in INSIDE, so that a single record,
        # which is there whole or not at all, need not be announced in DIRTY (storage/bias.py).
        self.biased = False
        self.skew: Callable[[], int] = int  # how far the wall clock is ahead of store time, ms
        self.last_ms = 0  # the time of the last record that somebody else appended
        self._commit = GroupCommit(lambda: self.synced, self._sync_now)
        self.failure: StorageError | None = None
        self.told = False  # a caller was told of it
        self.names_unsure = False  # a sync of the directory failed: no more segments may be unlinked
        self._unheard: set[int] = set()  # threads that no caller hears
        self.grown: Callable[[], None] = _nothing  # called when room was reserved
        # Takes the turn, if this thread does not have it: no thread and no process appends meanwhile.
        self.turn: Callable[[], AbstractContextManager[object]] = nullcontext
        self._in_turn = 0  # the thread that has it, to write again what no sync has confirmed
        self.standing: Standing | None = None  # what tells whether the files are still the store's
        self.stood: Callable[[], None] = _nothing  # called each second, when they are
        self.lost: Callable[[Trouble], None] = _nothing_of  # called once, when they are not
        self._stood_ms = 0  # when they last were
        self._gone_why = "the store was closed meanwhile"
        self.end = end
        if segments and segment_bytes:
            self._enter(segments[-1], *self._open_to_write(segments[-1]))
            self._room = 0

    def share(self, sync_fd: int, *, closed: bool) -> None:
        """Others write to this log too.  *closed*: its last record says closed."""
        self._sync_fd = sync_fd
        # What stands behind a closing record counts once it is on the disk: its writer may
        # have died before it was.
        self._said_open = not closed and self.synced >= self.end
        self._open_behind = self.end
        self._unlock_sync = self._disk.unlocker(sync_fd) if sync_fd >= 0 else int
        self._closed_at = self.end if closed else -1
        self._room = 0  # the next append looks for itself

    @property
    def synced(self) -> int:
        """Everything below is on the disk."""
        return self._mark[SYNCED]

    @property
    def segments(self) -> list[Segment]:
        """Oldest first.  Not to be changed."""
        return self.reader.index[1]

    # ── writing ────────────────────────────────────────────────────────────────────

    def append(self, now_ms: int, kind: int, flags: int, queue: int, payload: bytes) -> int:
        """Append one record; its position.  Whatever becomes of this process, the file has the bytes then."""
        # Flat on purpose: every publish, delivery and ack comes through here, and a
        # Python call costs a tenth of it.
        size = 24 + len(payload)
        lsn = self.end
        if lsn + size > self._room or now_ms > self._look_ms or now_ms < self._created_ms:
            lsn = self._make_room(now_ms, size, (kind,), 1)
            now_ms = max(now_ms, self._created_ms)  # if a system's clocks are not what it says
        lag = lsn - self._mark[SYNCED]
        rest = (
            AFTER_CRC.pack(
                len(payload), lsn & 0xFFFF_FFFF, lag if lag < 0xFFFF_FFFF else 0xFFFF_FFFF,
                now_ms - self._created_ms, kind, flags, queue,
            )
            + payload
        )  # fmt: skip
        data = CRC.pack(crc32c(rest, self._seed)) + rest
        tail, end = self._tail, lsn + size
        mapped = end <= tail.ready or tail.reach(lsn, end)
        # Behind the last call: a signal's handler may fork there, and this be the child (`after_fork`).
        if not self.biased:
            self._mark[DIRTY] = 1
        try:
            if mapped:
                tail.window[lsn - tail.first : end - tail.first] = data
            else:
                done = self._pwrite(self._fd, data, lsn - self._shift)
                if done != size:
                    self._write_rest(data, lsn, done)
            self.end = self._mark[END] = end
        except OSError as error:
            raise self._refused(error, lsn, size) from error
        except BaseException as error:
            if mapped and isinstance(error, ValueError):  # it is closed: this is the child of a fork
                raise self._fail(OSError(LEFT, LEFT_WHY)) from error
            if not isinstance(error, StorageError):
                self._mark[DIRTY] = 1
            raise
        if not self.biased:
            self._mark[DIRTY] = 0
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
        size = sum(map(len, payloads)) + record.HEADER_BYTES * count
        if size > record.GROUP_BYTES_MAX:
            raise UsageError(
                f"{size} bytes at once; {record.GROUP_BYTES_MAX} is the most: publish in smaller batches"
            )
        if self.end + size > self._room or now_ms > self._look_ms or now_ms < self._created_ms:
            self._make_room(now_ms, size, set(kinds), count)
            now_ms = max(now_ms, self._created_ms)
        chain = record.CONTINUES if atomic else 0
        flags = [*[each | chain for each in flags[:-1]], flags[-1]]
        start = self.end
        data, positions = record.encode_run(
            self._seed, start, self._mark[SYNCED], now_ms - self._created_ms, kinds, flags, numbers, payloads
        )
        tail, end = self._tail, start + size
        mapped = end <= tail.ready or tail.reach(start, end)
        self._mark[DIRTY] = 1
        if mapped:
            try:
                tail.window[start - tail.first : end - tail.first] = data
            except ValueError as error:
                raise self._fail(OSError(LEFT, LEFT_WHY)) from error
        else:
            self._write_rest(data, start, 0)
        self.end = self._mark[END] = end
        self._mark[DIRTY] = 0
        return positions

    def _write_rest(self, data: bytes, lsn: int, done: int) -> None:
        try:
            write_all(self._disk, self._fd, data[done:], lsn + done - self._shift)
        except OSError as error:
            raise self._refused(error, lsn, len(data)) from error

    def _refused(self, error: OSError, lsn: int, size: int) -> StorageError:
        """The error for a write of *size* bytes to the log that the system refused.

        EFBIG is a limit of this process (RLIMIT_FSIZE), lowered since the room was reserved, and no fault
        of the disk.  What was written in part is taken back: a body that ends in zeros would look whole.
        """
        if error.errno != errno.EFBIG:
            return self._fail(error)
        offset = lsn - self._shift
        try:
            write_all(self._disk, self._fd, bytes(max(0, min(size, file_bytes_max() - offset))), offset)
        except OSError as again:
            return self._fail(again)
        self._tail.close()
        self._allocated, self._room = lsn, 0  # the next append looks how long the file may be
        self._mark[DIRTY] = int(self.unsettled)
        return storage_error(self.reader.path(self.segments[-1]), error)

    def _fail(self, error: OSError, path: str = "") -> StorageError:
        """Note that the disk's state is unknown from here on; the error to raise; see `pass_on`."""
        pass_on(error)
        path = path or self.reader.path(self.segments[-1])
        if error.errno == LEFT:
            return StoreFailed(path, f"{LEFT_WHY}; whether it is stored is for the parent to know")
        self._mark[FAILED] = self._mark[DIRTY] = 1
        self._lose_if(self.standing.stolen(path, self._fd) if self.standing else None)
        self.failure = StoreFailed(
            path,
            f"{error.strerror or error}; what was being written is there whole or not at all:"
            " re-open the store",
        )
        self._tell()
        return self.failure

    def check(self) -> None:
        """Raise what stands in the way of another append."""
        if self.failure:
            self._tell()
            raise StoreFailed(self.failure.path, self.failure.reason)
        if self._mark[FAILED]:
            raise StoreFailed(
                self.directory,
                "in another process a write or an fsync failed, or a file was found replaced; the outcome is"
                " unknown: close the store in all of them, then re-open it",
            )

    def _tell(self) -> None:
        if threading.get_ident() not in self._unheard:
            self.told = True

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """What this thread meets in here no caller is told of: whoever comes next is, or `close` tells."""
        thread = threading.get_ident()
        self._unheard.add(thread)
        try:
            yield
        finally:
            self._unheard.discard(thread)

    # ── standing ───────────────────────────────────────────────────────────────────

    def stand(self) -> None:
        """StoreFailed, for good, unless the files are still the store's; called with the store's mutex."""
        if self.standing and self._writing:
            fd, last = self._writing
            path, size = self.reader.path(last), last.offset(self.end) if self.end > last.base else 0
            with explain(path):
                trouble = self.standing.trouble(path, fd, size)
            # Processes that have gone on since may have dropped the segment, as they do.  The page
            # is read after that was seen: its end has moved long before.
            behind = self._mark[END] > last.limit
            if trouble and not (behind and trouble.path == path and not trouble.stolen):
                self._lose(trouble)

    def stand_again(self, now_ms: int) -> None:
        """The same, if a second has passed since."""
        if now_ms > self._stood_ms + CHECK_MS:
            self.stand()
            self._stood_ms = now_ms
            self.stood()

    def _stand_by(self, writing: tuple[int, Segment] | None) -> None:
        """StoreFailed if what was *writing* is another file's by now; with `_sync` held, or the mutex."""
        if writing:
            fd, last = writing
            self._require_own(self.reader.path(last), fd)

    def _require_own(self, path: str, fd: int) -> None:
        """StoreFailed, for good, if the descriptor, which was of *path*, is another file's by now."""
        with explain(path):
            trouble = self._theft(path, fd)
        self._lose_if(trouble)

    def _theft(self, path: str, fd: int) -> Trouble | None:
        """That it is; OSError if this cannot be told."""
        return self.standing.stolen(path, fd) if self.standing and not self._disk.owns(fd) else None

    def _require_sync_fd(self) -> None:
        """The same, of the page's, whose lock says which process syncs."""
        if self._sync_fd >= 0:
            self._require_own(paths.mark(paths.store_of(self.directory)), self._sync_fd)

    def _lose_if(self, trouble: Trouble | None) -> None:
        if trouble:
            self._lose(trouble)

    def _lose(self, trouble: Trouble) -> NoReturn:
        """Nothing more is written: this is not, or not only, the store that was opened."""
        if self.failure is None:
            if trouble.for_all:
                self._mark[FAILED] = 1
            self.failure = StoreFailed(trouble.path, trouble.reason)
            if self._sync_fd >= 0 and is_anothers(self._disk, self._sync_fd):
                self._sync_fd, self._unlock_sync = -1, int
            self.lost(trouble)
        self._tell()
        raise StoreFailed(self.failure.path, self.failure.reason)

    # ── room ───────────────────────────────────────────────────────────────────────

    def _make_room(self, now_ms: int, size: int, kinds: Collection[int], count: int) -> int:
        """Reserve *size* bytes at the end, in a new segment if need be; the position of the first.

        A full disk is refused here, before anything is torn.  What takes messages out may
        use the room kept back for that; then everything comes through here, until there is
        room to keep back again.  And once a second, to look whether the files are still the store's.
        The one that is written to is looked at each time: the size of another one is not to be changed.
        """
        self.stand_again(now_ms)
        self._stand_by(self._writing)
        if not self._said_open:
            self._say_open(now_ms)
        refusable = not self.refusable.isdisjoint(kinds)
        whole, least = self.kept(kinds, count)
        asked, elsewhere = size + STARVED_BYTES, False
        before = self._fd, self._allocated
        while True:
            try:
                if refusable and self.full and not self.way_made:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # clean first, then come again
                begun = elsewhere or self._segment_ends(now_ms, size)
                if refusable and (begun or self.full or whole > self.reserve.held or self._is_used_up(size)):
                    self._hold(whole)
                if begun:
                    elsewhere = False
                    self.rotate(now_ms, size)
                self._allocate(size)
                break
            except OSError as error:
                self._room = 0
                if error.errno in NO_ROOM:
                    self.full = True
                    if not refusable and self._is_too_long(error):
                        elsewhere = True
                        continue
                    if not refusable and error.errno != errno.EFBIG and self.reserve.give(asked, least):
                        asked *= 4  # what a file system needs beside the room itself, it does not say
                        continue
                else:
                    pass_on(error)
                    self.stand()  # perhaps the program closed a descriptor
                self.grown()  # perhaps there is something to clean
                raise storage_error(self.directory, error) from error
        self.full = self.full and not refusable
        self.way_made = self.way_made and refusable
        # A publish comes by again before there are more messages than room was kept back for.
        enough = self._said_open and not self.full and whole <= self.reserve.held
        self._room = min(self._allocated, self.end + size + GRANT_BYTES) if enough else 0
        self._map(enough)
        self._look_ms = min(self._latest_ms, now_ms + LOOK_MS)
        if self.full or before != (self._fd, self._allocated):
            self.grown()
        return self.end

    def _map(self, enough: bool) -> None:
        """Have mapped what is reserved at the end; with not *enough* room, nothing."""
        limit = self._allocated if self.may_map and enough else 0
        if self._tail.limit != limit:
            self._tail.close()
            if limit and (tail := map_tail(self._disk, self._fd, self.segments[-1], self.end, limit)):
                self._tail = self.reader.tail = tail
                if self._fd < 0:  # the child of a fork, made in here: it has closed the one before
                    tail.close()

    def _hold(self, whole: int) -> None:
        """Keep *whole* bytes back, and some for messages to come, if there is room for that."""
        if not self.full:
            try:
                self.reserve.hold(whole + AHEAD_BYTES)
                return
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
        self.reserve.hold(whole)

    def _segment_ends(self, now_ms: int, size: int) -> bool:
        """Whether *size* bytes go into a new segment: for room, or so that it says what time it is."""
        if not self.segments:
            return True
        last = self.segments[-1]
        clock_was_set = abs(self.skew() - last.skew_ms) > SKEW_MS and not self.full
        return self.end + size > last.limit or now_ms > self._latest_ms or clock_was_set

    def _is_used_up(self, size: int) -> bool:
        """Whether there are no *size* bytes reserved at the end."""
        return self.end + size > self._allocated

    def _is_too_long(self, error: OSError) -> bool:
        """Whether this file may not grow (RLIMIT_FSIZE), and a new one may."""
        used = self.end - self.segments[-1].base
        return error.errno == errno.EFBIG and used > FENCE_BYTES + record.CLOCK_BYTES

    def _say_open(self, now_ms: int) -> None:
        """Before anything is appended behind a closing record, have something there on the disk.

        Else a power cut could leave the closing record as the last one, and the log would
        go on at positions that were given out before the cut.
        """
        self._said_open = True
        try:
            self.append_head(now_ms, self.head)
            self.sync(self.end)
        except BaseException:
            self._said_open = False  # a full disk, perhaps: the next append comes by here, too
            raise

    def say_closed(self, now_ms: int) -> None:
        """Have it on the disk that nothing follows; nothing to do if that is the last record already."""
        self.sync(self.end)
        if self.end != self._closed_at:
            self._said_open = True
            self.append(now_ms, record.CLOSED, 0, 0, b"")
            self.sync(self.end)
            self._closed_at = self.end
        self._said_open, self._room = False, 0

    def restart(self, now_ms: int, base: int) -> None:
        """After a crash: go on in a segment behind every position that may have been given out.

        What nobody synced may be gone, but somebody may have noted its id.
        """
        if self.segments:
            self._cut(self.segments[-1], self.end)  # no other process has it open
        self._fence(now_ms, base)
        self.say_closed(now_ms)

    def _fence(self, now_ms: int, base: int) -> None:
        """Go on in a new segment, on a full disk too: what is behind the end is void."""
        asked = STARVED_BYTES
        while True:
            try:
                self.begin_segment(now_ms, base, 0, void_from=self.end)
                return
            except OSError as error:
                if error.errno not in NO_ROOM or not self.reserve.give(asked):
                    raise storage_error(self.directory, error) from error
                self.full = True
                asked *= 4

    def _go_on_behind(self, now_ms: int) -> None:
        """Go on in a new segment; what was reserved in the last one is for others."""
        last, end = self.segments[-1], self.end
        self._fence(now_ms, last.limit)
        self._cut(last, end)

    def _cut(self, each: Segment, end: int) -> None:
        """What was reserved in a segment behind its *end* is for others, if nothing was ever written there.

        Only when the log goes on elsewhere, and the page says so: another process may have that room
        mapped, and would be killed where it copies to what is gone.
        """
        if end < each.base:
            return  # after a crash, when all of it is void
        start = each.offset(end)
        with suppress(OSError):  # it costs room, and nothing else
            fd = self._disk.open(self.reader.path(each), write=True)
            try:
                if is_zero(self._disk, fd, start):
                    self._disk.truncate(fd, -(-start // PAGE_BYTES) * PAGE_BYTES)
            finally:
                self._disk.close(fd)

    def _allocate(self, size: int) -> None:
        """Reserve *size* bytes in the last segment, and some more if the disk has them."""
        if not self._is_used_up(size):
            return
        # As far as this process knew.
        last, there = self.segments[-1], self._disk.size(self._fd)
        self._allocated = _reserved(last, there)
        if not self._is_used_up(size):
            return
        steps = [STARVED_BYTES, 0] if self.full else [ALLOCATE_BYTES, STARVED_BYTES, 0]
        for step in steps:
            target = min(last.limit, max(self.end + size, self._allocated + step))
            try:
                if last.offset(target) > file_bytes_max():  # the system says so only where the file ends
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                self._disk.allocate(self._fd, last.offset(self._allocated), target - self._allocated)
            except OSError as error:
                with suppress(OSError):  # some file systems keep what they had found so far
                    self._disk.truncate(self._fd, there)
                if error.errno not in NO_ROOM or not step:
                    raise
            else:
                self._allocated = target
                return

    def rotate(self, now_ms: int, size: int = 0) -> None:
        """Go on in a new segment, whose header and name are on the disk before it is used."""
        before, end = self.segments[-1:], self.end
        self.begin_segment(now_ms, before[0].limit if before else 0, size, void_from=end)
        if self.full:
            for last in before:
                self._cut(last, end)

    def roll(self, now_ms: int) -> None:
        """Go on in a new segment, so that the one in use can be cleaned."""
        self._go_on_behind(now_ms)

    def begin_segment(self, now_ms: int, base: int, size: int, *, void_from: int) -> None:
        """Create the segment at *base* with room for *size* bytes, fence [void_from, base), go on in it."""
        self.stand()
        number = self.segments[-1].number + 1 if self.segments else 0
        if self.segments:
            now_ms = max(now_ms, self.segments[-1].created_ms)
        skew = self.skew()
        if abs(skew) <= SKEW_MS:
            skew = 0
        capacity = max(self._usual_capacity(), FENCE_BYTES + size + (record.CLOCK_BYTES if skew else 0))
        seed = record.seed(self._identity.key, base)
        new = Segment(number, base, capacity, now_ms, seed, segment.FEATURES, skew, self.epoch)
        path = self.reader.path(new)
        fence = record.Fence(void_from, self.head, capacity, now_ms, self.epoch)
        data = fence.encode(new.seed, base, self.synced) + segment.encode_clock(new)
        fd, size = self._create(path, new)
        # An interruption between these lines leaves a log that writes to one segment and
        # counts in another.
        self.unsettled = True
        self._mark[DIRTY] = 1
        self.reader.show([*self.segments, new])
        self._enter(new, fd, size)
        self._write_rest(data, base, 0)
        self.end = self._mark[END] = base + len(data)
        self._mark[DIRTY] = 0
        self.unsettled = False

    def _usual_capacity(self) -> int:
        """Of a segment that is begun now; the record that it is begun for may take more.

        On a disk with little room segments are shorter: one goes only as a whole, and what
        lives in it has to fit beside it before that.  But very small ones waste room.
        """
        usual = self.segment_bytes
        if self.full:
            usual = max(usual, FULL_SEGMENT_BYTES)
        if usual > FULL_SEGMENT_BYTES and (free := self._disk.free(self.directory)) is not None:
            usual = min(usual, max(FULL_SEGMENT_BYTES, free // FREE_SHARE))
        return usual

    def _create(self, path: str, new: Segment) -> tuple[int, int]:
        """The file of a segment, its header and name on the disk; descriptor and size."""
        disk = self._disk
        if disk.exists(path):
            if self._begun(path, new.base):
                raise StoreFailed(path, "another process uses it that this one does not know of: " + REOPEN)
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
                if error.errno in NO_DESCRIPTORS:  # not a sync that failed: the directory was not opened
                    raise
                raise self._fail(error, path) from error
            if not self.full:
                try:
                    disk.allocate(fd, segment.HEADER_BYTES, min(new.capacity, ALLOCATE_BYTES))
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    disk.truncate(fd, segment.HEADER_BYTES)  # `_allocate` asks for less
            return fd, disk.size(fd)
        except BaseException:
            disk.close(fd)
            raise

    def _open_to_write(self, each: Segment) -> tuple[int, int]:
        """A descriptor, and the size of the file."""
        fd = self._disk.open(self.reader.path(each), write=True)
        try:
            return fd, self._disk.size(fd)
        except BaseException:
            self._disk.close(fd)
            raise

    def _enter(self, last: Segment, fd: int, size: int) -> None:
        """Make *last*, a file of *size* bytes that *fd* writes to, the segment that is written to."""
        self._tail.close()
        # The new one first: a sync that begins after the old one is closed must not get that.
        self._writing = fd, last
        old, self._fd = self._fd, fd
        if old >= 0:
            if is_held(self._sync):
                self._retired.append(old)
            else:
                self._disk.close(old)
        self._seed, self._shift = last.seed, last.base - segment.HEADER_BYTES
        self._created_ms, self._latest_ms = last.created_ms, last.created_ms + record.LOW
        self._look_ms = 0  # the next append looks
        self._allocated = _reserved(last, size)
        self._room = 0  # the next append looks for itself

    def _close_retired(self) -> None:
        while self._retired:
            self._disk.close(self._retired.pop())

    def used(self, each: Segment) -> int:
        """What one segment takes on the disk, without what is reserved ahead."""
        if each.base == self.segments[-1].base:
            return self.end - each.base
        return self.reader.size_of(each)

    def disk_bytes(self) -> int:
        """What the log takes on the disk, without what is reserved ahead."""
        return self.reader.older_bytes() + self.end - self.segments[-1].base

    # ── the head ───────────────────────────────────────────────────────────────────

    def append_head(self, now_ms: int, head: int) -> int:
        """Say that the log begins at *head*; the record's position.  Once synced, `trim` may follow."""
        return self.append(now_ms, record.HEAD, 0, 0, record.encode_head(head))

    def trim(self, before: int) -> int:
        """Drop the segments that end at *before* or sooner, and unlink them; how many bytes they had.

        That the log begins behind them is in it, and on the disk: see `append_head`.  Called without the
        turn: on some file systems it takes a millisecond to unlink a MiB.
        """
        with self.turn():
            self.stand()
            # None is left here, if another process has repeated where the log begins.
            while len(self.segments) > 1 and self.segments[0].limit <= before:
                self.reader.close_segment(self._forget_oldest())
            if self._fd >= 0:
                self._mark[HEAD] = self.head
        return self._unlink_before(min(before, self.head))

    def _forget_oldest(self) -> Segment:
        oldest, *others = self.segments
        self.head = others[0].base
        self.reader.show(others)
        return oldest

    def _unlink_before(self, head: int) -> int:
        """Unlink the files of the segments before *head*; how many bytes they had.

        Names go one at a time and in order: the directory is synced before the next, so
        a power cut never leaves a gap.
        """
        size, path = 0, self.directory
        try:
            # With those whose cleaner died before it had unlinked them.
            gone = [base for base in paths.segment_bases(self._disk.names(self.directory)) if base < head]
            if gone:
                self._sync_names()
            for base in gone:
                path = paths.segment(self.directory, base)
                size += self._size_at(path)
                self._disk.unlink(path)
                self._sync_names()
        except OSError as error:
            pass_on(error)
            # Not DiskFull, whatever it was: nobody may go on to the next one in its place.
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
            self._disk.sync_directory(self.directory)
        except OSError as error:
            pass_on(error)
            # As with a failed fsync, a second try proves nothing: which names are on the disk is
            # not known, so no other may go before the store is opened again.
            self.names_unsure = error.errno not in NO_DESCRIPTORS
            raise

    # ── syncing ────────────────────────────────────────────────────────────────────

    def sync(self, upto: int) -> None:
        """Return when everything below *upto* is on the disk.

        The order of locks is mutex > LOCK > `_sync` > mark.  A leader has the last two, and must not
        wait for the first two: a thread that has the mutex may follow this leader, and a process that has
        LOCK may wait for mark.  So in doubt the leader lets go of both, and of its lead: its followers
        wake, and one of them leads.  Then it takes the turn, and begins anew from the inside:

            beside it                                       what happens
            ──────────────────────────────────────────────  ─────────────────────────────────────────────
            a thread in its turn that follows this leader   it leads, and rewrites; we come after it
            a thread without a turn that leads              it finds the doubt too, and queues for the mutex
            a process in its turn that waits for mark       it gets it, and rewrites; we wait for LOCK
            a process without a turn that has mark          it finds the doubt too, lets go, waits for LOCK
            the same, and the doubt was settled meanwhile   we wait for the end of its sync, LOCK in hand

        The waits are bounded: LOCK's by LOCK_SECONDS, mark's by SYNC_SECONDS.
        """
        doubt = False
        try:
            self._commit.wait(upto)
        except Doubt:
            doubt = True
        if doubt:
            with self._turn():
                self._commit.wait(upto)
        # Perhaps another process synced it, which cannot know where this one wrote it.
        with self._in_the_log():
            if self.standing and not self._disk.owns(self._fd):
                with self._sync:  # or a rotation closed it just now
                    self._stand_by(self._writing)

    @contextmanager
    def _in_the_log(self) -> Iterator[None]:
        """StoreFailed, which leaves open whether it is on the disk, in the place of errors that do not."""
        try:
            yield
        except StoreFailed:
            raise
        except (Closed, StorageError, OSError) as error:
            if isinstance(error, OSError):
                pass_on(error)
                error = storage_error(self.directory, error)
            reason = getattr(error, "reason", error)
            raise StoreFailed(self.directory, f"{IN_THE_LOG}: {reason}") from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with ExitStack() as stack:
            with self._in_the_log():
                stack.enter_context(self.turn())
            try:
                self._in_turn = threading.get_ident()
                yield
            finally:
                self._in_turn = 0

    def _sync_now(self) -> None:
        """One thread of this process at a time, and one process of all."""
        wanted = self.end
        with self._sync, self._in_the_log(), self._sync_explained():
            if self.failure:
                self.check()
            try:
                self._wait_to_sync()
                if self.synced < wanted:  # not by somebody else meanwhile
                    self.check()
                    self._sync_for_all()
            finally:
                self._unlock_sync()  # one call: nothing can interrupt before it

    @contextmanager
    def _sync_explained(self) -> Iterator[None]:
        """No OSError, if the lock of the page cannot be taken, or given back."""
        try:
            yield
        except OSError as error:
            pass_on(error)
            self._require_sync_fd()
            raise storage_error(self.directory, error) from error

    def _may_sync(self) -> bool:
        """Whether no other process syncs; then none does until this one unlocks."""
        if self._sync_fd < 0:
            return True
        self._require_sync_fd()  # before: the lock of another file is another program's
        return self._disk.lock(self._sync_fd)

    def _wait_to_sync(self) -> None:
        """Wait until no other process syncs."""
        give_up = time.monotonic() + SYNC_SECONDS
        while not self._may_sync():
            if time.monotonic() > give_up:
                raise StoreFailed(
                    self.directory,
                    f"process {self._mark[SYNCER]} has been syncing for {SYNC_SECONDS:.0f} seconds:"
                    f" {IN_THE_LOG}",
                )
            self._disk.pause(SYNC_NAP_SECONDS)

    def is_syncing(self) -> bool:
        """Whether a thread of this process syncs, or uses the files so, perhaps this one."""
        return is_held(self._sync)

    def wait_for_rewrite(self) -> None:
        """Before bytes are called damaged: another process may just write them again.

        The kernel drops the pages, then writes: a read in between finds what the disk had before.
        That process has LOCK and mark, but this one may read without LOCK; so it waits for mark.
        """
        with self._sync, self._sync_explained():
            try:
                self._wait_to_sync()
            finally:
                self._unlock_sync()

    def _sync_for_all(self) -> None:
        """The target is sampled before the fdatasync, so nothing appended during it is claimed."""
        # The descriptor first: a rotation after this line only adds a segment that is
        # synced too, and none is closed while `_sync` is held.
        writing, target = self._writing, self.end
        if writing is None:
            raise StoreFailed(self.directory, self._gone_why)
        fd, last = writing
        end = self._mark[END]  # read once: it moves
        if target < end <= last.limit:
            target = end  # what others have appended to the same segment
        self._mark[SYNCER] = os.getpid()
        doubtful = self._mark[SYNCING]
        if doubtful and self._in_turn != threading.get_ident():
            raise Doubt
        try:
            if doubtful:
                # A leader died inside: that sync may have failed, and no process was told.
                self._rewrite(self._mark[SYNCED], target)
            self._mark[SYNCING] = max(doubtful, target)
            self._sync_others(last, target)
            self._disk.sync(fd)
            theft = self._theft(self.reader.path(last), fd)  # OSError if that cannot be told: not believed
        except OSError as error:
            pass_on(error)
            if error.errno in NO_DESCRIPTORS or error.errno == LEFT:  # no sync has failed: there was no file
                self._mark[SYNCING] = doubtful
                reason = storage_error(self.directory, error).reason
                raise StoreFailed(self.directory, f"{IN_THE_LOG}: {reason}") from error
            if self.standing:  # then no disk has failed
                self._lose_if(self.standing.stolen(self.reader.path(last), fd))
                self._lose_if(self.standing.unanchored())
            self._mark[FAILED] = self._mark[DIRTY] = 1
            self.failure = StoreFailed(
                self.directory,
                f"fsync failed ({error.strerror}), the outcome is unknown: re-open the store, then look",
            )
            self._tell()
            raise self.failure from error
        self._lose_if(theft)
        self._mark[SYNCED] = self._mark[SYNCED_TWIN] = target
        self._mark[SYNCING] = doubtful if doubtful > target else 0  # the rest is for who knows it
        self._close_retired()

    def _rewrite(self, start: int, stop: int) -> None:
        """Have [*start*, *stop*) in memory as it was written, to be synced; OSError if it is not there."""
        self._tail.close()  # what is mapped is not dropped from memory on advice
        bases, segments = self.reader.index
        upto = stop
        for each in reversed(segments[: bisect_left(bases, stop)]):
            path = self.reader.path(each)
            fd = self._disk.open(path)
            try:
                scan = Scan(self._disk, fd, each, max(start, each.base), upto, path)
                scan.follow()
                fenced = self._fenced(fd, path, each.base)
            finally:
                self._disk.close(fd)
            if fenced is None or scan.end < min(upto, each.limit):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            upto = min(upto, fenced[1])  # what is behind it is void
            if upto <= start:
                break
        rewrite(self._disk, self.directory, segments, start, stop)

    def _sync_others(self, last: Segment, target: int) -> None:
        """Sync the segments in [synced, target) other than *last*, oldest first."""
        bases, segments = self.reader.index
        first = max(0, bisect_right(bases, self.synced) - 1)
        for each in segments[first : bisect_right(bases, target - 1)]:
            if each.base != last.base:
                if self.standing and (trouble := self.standing.moved()):
                    self._lose(trouble)
                own = self._disk.open(self.reader.path(each), write=True)
                try:
                    self._disk.sync(own)
                finally:
                    self._disk.close(own)

    def barrier(self) -> int:
        """The end as of now, whichever process appended."""
        return self._mark[END]

    # ── what others do ─────────────────────────────────────────────────────────────

    def follow(self, upto: int, enough: int = NO_LIMIT) -> Iterable[Stretch]:
        """What others appended, up to *upto*, an end that the page named.  Goes on in their new segments.

        Of more than *enough* bytes, whole groups of at least so many.
        FileNotFoundError: a segment is gone, so what it held is to be had from elsewhere now.
        """
        last, begin = self.segments[-1], self.end
        if upto > last.limit or upto - begin > (FOLLOW_BYTES if enough > FOLLOW_BYTES else enough):
            return self._follow_far(upto, begin + enough)
        # Flat on purpose: one process follows another's every message through here.
        scan = Scan(self._disk, self._fd, last, begin, upto, "")
        block = self._tail.read(begin, upto) if begin >= self._tail.first else b""
        if not block:
            block = self._pread(self._fd, upto - begin, begin - self._shift)
        found = scan.parse(block, begin)
        if scan.end != upto:
            return self._follow_far(upto, begin + enough)
        self._followed(scan, upto)
        self.reader.followed = last, begin, block
        return found

    def appended_since(self, begin: int) -> list[Event]:
        """What this turn has appended from *begin* on, though an exception kept the page from saying so."""
        last = self.segments[-1]
        if self.unsettled:  # nothing was, but a new segment was begun
            return []
        scan = Scan(self._disk, self._fd, last, max(begin, last.base), last.limit, "")
        return [event for stretch in scan for event in stretch.events()]

    def _follow_far(self, upto: int, enough: int) -> Iterator[Stretch]:
        """Up to the first end of a group at *enough* or behind, or to *upto*."""
        while upto > self.segments[-1].limit:
            new, void_from = self._next_segment()
            yield from self._scan(void_from, enough)
            if self.end >= enough:
                return
            # How long the file is says nothing without LOCK: where there is no room for what a process
            # reserves, it is longer for a moment.  The next append looks.
            fd, _ = self._open_to_write(new)
            self.reader.show([*self.segments, new])
            self._enter(new, fd, 0)
            self.end = new.base + FENCE_BYTES
        yield from self._scan(upto, enough)

    def _scan(self, upto: int, enough: int) -> Iterator[Stretch]:
        """The records of the last segment from the end to *upto*, or to *enough*."""
        start, whole = self.end, 0
        for again in (False, True):
            scan = Scan(self._disk, self._fd, self.segments[-1], start, upto, "", whole)
            for found in scan.blocks(max(FOLLOW_BYTES_MIN, enough - self.end)):
                yield from found
                if scan.end >= enough:
                    break
            if scan.end >= min(enough, upto):
                upto = scan.end
                break
            if not again:
                self._followed(scan, scan.end)
                self.wait_for_rewrite()
                start, whole = (scan.bad, scan.whole) if scan.bad < scan.whole else (scan.end, 0)
        self._followed(scan, upto)

    def _followed(self, scan: Scan, upto: int) -> None:
        last = self.segments[-1]
        if scan.end != upto:
            self.stand()  # else damage is no explanation
            raise CorruptStore(
                self.reader.path(last),
                f"what another process wrote here does not pass its checksum: {ADVICE}",
                last.offset(scan.end),
            )
        if upto > self.end:
            self._said_open = not scan.closed and (self._said_open or self.synced > self._open_behind)
            if scan.closed:
                self._closed_at = self._open_behind = upto
            self.last_ms = last.created_ms + scan.last_ms
        self.end = upto
        if scan.head > self.head:
            self._forget_before(scan.head)

    def _forget_before(self, head: int) -> None:
        """Somebody moved what lived before *head*, and is about to unlink it."""
        while self.segments[0].limit <= head:
            self.reader.close_segment(self._forget_oldest())

    def _next_segment(self) -> tuple[Segment, int]:
        """The segment behind the last one, which is in use; and where its fence voids from."""
        limit = self.segments[-1].limit
        path = paths.segment(self.directory, limit)
        found = self._begun(path, limit)
        if found is None:
            raise CorruptStore(path, f"the segment does not begin with its fence: {ADVICE}", 0)
        return found

    def _begun(self, path: str, base: int) -> tuple[Segment, int] | None:
        """`_fenced`, of the file at *path*."""
        fd = self._disk.open(path)
        try:
            return self._fenced(fd, path, base)
        finally:
            self._disk.close(fd)

    def _fenced(self, fd: int, path: str, base: int) -> tuple[Segment, int] | None:
        """The segment at *base*, and where its fence voids from; None if it is not in use yet."""
        data = self._disk.pread(fd, segment.BEGIN_BYTES, 0)
        try:
            found = segment.decode_header(self._identity, path, base, data)
        except BadHeader:
            return None
        fence = record.fence_in(data[segment.HEADER_BYTES :], base, found.seed)
        return (found, fence.void_from) if fence else None

    def adopt(self, now_ms: int) -> None:
        """Whoever held the lock died inside: what is there whole counts, and the rest is fenced off.

        Moves the page's end; the caller follows, and comes again until nothing is dirty.
        """
        self.stand()  # or they are inside just now, under another LOCK
        last = self.segments[-1]
        path = self.reader.path(last)
        scan = Scan(self._disk, self._fd, last, self.end, last.limit, path)
        scan.follow()
        if scan.end != self.end:
            self._mark[END] = scan.end
            return
        next_path = paths.segment(self.directory, last.limit)
        if self._disk.exists(next_path):
            found = self._begun(next_path, last.limit)
            if found and found[1] == self.end:
                self._mark[END] = last.limit + FENCE_BYTES
                return
        if not is_zero(self._disk, self._fd, last.offset(self.end)):
            self._go_on_behind(now_ms)
        self._mark[DIRTY] = 0

    def rebase(self, segments: list[Segment], end: int, *, closed: bool) -> None:
        """Be where the log is, whatever was in between."""
        fd, size = self._open_to_write(segments[-1])
        with self._sync:
            self._tail.close()  # a thread may read there up to the end, and it is elsewhere in a moment
            self.reader.reset(segments)
            self.end = end
            self._enter(segments[-1], fd, size)  # at once: whoever syncs next needs a file
            self._close_retired()
        self.head = segments[0].base
        self.share(self._sync_fd, closed=closed)
        self.unsettled = False

    # ── closing ────────────────────────────────────────────────────────────────────

    def locks(self) -> list[Lock]:
        """For which a thread may wait here, in the order in which it takes them."""
        return [self._commit.gate, self._sync, self.reader.files]

    def after_fork(self) -> None:
        """In a child: let go of the parent's files, whichever thread held the locks.

        A thread that is inside an operation, and forked in the handler of a signal, goes on with it
        here: it finds a page of its own and no file.  So what it writes to the page it asks for after
        the last call, and keeps in no variable: the parent may be far ahead by then.
        """
        self._sync = threading.RLock()
        self._gone_why, self._pwrite, self.standing = LEFT_WHY, self._disk.pwrite, None
        self.reader.after_fork()
        try:
            self.close()
        finally:
            self._mark[SYNCED] = min(self.synced, self.end)  # the parent has gone on before it was read
            self._commit.after_fork()

    def close(self) -> None:
        """Let go of the files and leave the log as it is.  Whoever still waits for the disk is told."""
        with self._sync:
            self._tail.close()
            self._mark = shared.detached(self._mark)
            # Whose lock that is goes with the store: nobody may sync any more.
            self._sync_fd, self._unlock_sync = -1, int
            try:
                self._close_retired()
                self.reader.close()
            finally:
                # Taken out before it is closed: its number may be another file's a moment later.
                fd, self._fd, self._writing = self._fd, -1, None
                if fd >= 0:
                    self._disk.close(fd)


def _reserved(last: Segment, size: int) -> int:
    """Up to where this process may write to *last*, a file of *size* bytes."""
    return min(last.limit, last.base + max(0, min(size, file_bytes_max()) - segment.HEADER_BYTES))


def _nothing() -> None:
    pass


def _keep_nothing(kinds: Collection[int], count: int) -> tuple[int, int]:
    return 0, 0


def _nothing_of(trouble: Trouble) -> None:
    pass
