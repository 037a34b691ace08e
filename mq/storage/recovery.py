"""What is on disk → where the log ends, and a verdict.

    X = the first place that is not an intact record, a zero or void.
    W = the largest position that `mark` or any intact record, anywhere, claims as synced.

    found                                                         verdict   then
    ────────────────────────────────────────────────────────────  ────────  ───────────────────────
    ends on a record, zeros behind, the last one says closed      CLEAN     go on
    the same without the closing record                           OPEN      fence, go on in a new segment
    X ≥ W: bad or missing bytes that nothing claims               TORN      the same; X on is void
    X < W, a header damaged, or a segment missing                 CORRUPT   refuse, and say where
    intact, but of a kind, version or feature unknown             Unsupported is raised

A pure crash, of the process or the power, only ever gives the first three.  Nothing is
cut off or overwritten with anything else: torn bytes stay in place behind a fence.

`survey` only reads.  `recover` makes the result durable, may be killed anywhere, and
may be run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from mq.errors import ADVICE, CorruptStore, StorageError

from . import paths, record, segment, shared
from .copies import another_epoch, part_segments
from .disk import PAGE_BYTES, Disk, write_file
from .explain import NO_ROOM
from .identity import Identity
from .log import Log
from .owner import Owner
from .reserve import Reserve
from .rewrite import rewrite
from .search import next_intact
from .segment import BadHeader, Scan, Segment
from .shared import NO_LIMIT

GONE_BYTES_MAX: Final = 1 << 40  # a page that claims more than this behind the last segment is not believed
RENEWING_BYTES: Final = 64 << 10  # taken at a time from the room kept back, to make segments anew

Apply = Callable[[Scan], None]


class Verdict(Enum):
    CLEAN = "clean"
    OPEN = "open"
    TORN = "torn"
    CORRUPT = "corrupt"


class Start(NamedTuple):
    """Where a checkpoint lets the reading begin: behind the record at *marker*, in the segment at *base*."""

    position: int
    base: int
    marker: int
    crc: int
    head: int


class StaleCheckpoint(Exception):
    """The log does not hold what the checkpoint says it does: read all of it."""


class Survey(msgspec.Struct):
    """What was found; positions are LSNs."""

    segments: list[Segment]
    verdict: Verdict = Verdict.OPEN
    end: int = 0  # the log ends here
    bad: int = 0  # X; behind `end` if a group is incomplete
    synced: int = 0  # W
    last_ms: int = 0  # the last intact record's time, since 1970
    event_ms: int = 0  # the same of the last event in a whole group; 0 if there is none
    skew_ms: int = 0  # how far the wall clock was ahead of `last_ms`
    head: int = 0  # the log begins here; segments before it are only not unlinked yet
    next_base: int = 0  # where the next new segment may begin
    unused: Sequence[Segment] = ()  # begun and never written to, at the end of the log; the last first
    begun: str = ""  # a file behind them whose header never came to be
    error: CorruptStore | None = None  # what is wrong, if the verdict is CORRUPT


def survey(
    disk: Disk, directory: str, identity: Identity, synced: int, apply: Apply, message_kinds: Collection[int],
    upto: int = NO_LIMIT, start: Start | None = None,
) -> Survey:  # fmt: skip
    """Read the log and judge it.  *apply* gets the whole groups before X; *synced* is what `mark` claims.

    Records of *message_kinds* are those that an error names by their positions.  While
    another process writes, look only at what is below *upto*, the end that `mark` names: a
    record that is just being written would pass for a torn one, and those that follow
    it meanwhile for a proof of damage.

    With *start*, *apply* gets what follows it; StaleCheckpoint if it does not fit the log.
    """
    reader = _Reader(disk, directory, upto)
    try:
        segments, error = reader.headers(identity)
        found = Survey(segments, synced=synced, error=error)
        if segments:
            found.next_base = segments[-1].limit
        if not error:
            found.unused, found.begun = reader.drop_empty_tail(segments), reader.begun
            head_behind = 0
            torn = reader.walk(found, apply, start)
            if found.verdict is Verdict.CLEAN and len(segments) < reader.files:
                found.verdict = Verdict.OPEN  # a process went on after the log was closed
            if torn:
                found.verdict = Verdict.TORN
                head_behind = reader.hear_claims_behind(found)
            elif found.verdict is Verdict.CLEAN:
                found.next_base = segments[-1].limit
            # Damage first: where the log begins may be said behind it.
            if found.bad < found.synced:
                found.error = reader.explain(found, message_kinds)
                found.head = max(found.head, head_behind)  # it was on the disk, so it counts
            elif segments and segments[0].base > found.head:
                path = paths.segment(directory, found.head)
                found.error = CorruptStore(path, f"the log's first segment is missing: {ADVICE}", 0)
        if found.error:
            found.verdict = Verdict.CORRUPT
        return found
    finally:
        reader.close()


def end_of_files(disk: Disk, directory: str, upto: int) -> int:
    """A position that no record reaches, as far as the size of the last file tells."""
    bases = paths.segment_bases(disk.names(directory))
    if not bases:
        return 0
    fd = disk.open(paths.segment(directory, bases[-1]))
    try:
        return min(upto, bases[-1] + disk.size(fd))
    finally:
        disk.close(fd)


class _Reader:
    """The segments of one log, read-only."""

    def __init__(self, disk: Disk, directory: str, upto: int) -> None:
        self._disk, self._directory, self._upto = disk, directory, upto
        self._base, self._fd = -1, -1
        self.begun = ""  # the path of a last file without a header
        self.files = 0  # with those that were begun and not used

    def path(self, each: Segment) -> str:
        return paths.segment(self._directory, each.base)

    def fd(self, each: Segment) -> int:
        """One descriptor at a time, however many segments."""
        if self._base != each.base:
            self.close()
            self._fd, self._base = self._disk.open(self.path(each)), each.base
        return self._fd

    def close(self) -> None:
        base, self._base = self._base, -1  # first: once it is closed, the number may be another file's
        if base >= 0:
            self._disk.close(self._fd)

    def scan(self, each: Segment, start: int, stop: int) -> Scan:
        return Scan(self._disk, self.fd(each), each, start, stop, self.path(each))

    def zero_from(self, each: Segment, lsn: int) -> bool:
        return segment.is_zero(self._disk, self.fd(each), each.offset(lsn))

    def headers(self, identity: Identity) -> tuple[list[Segment], CorruptStore | None]:
        """Every segment, oldest first; or those before the first that is damaged or missing."""
        segments: list[Segment] = []
        names = sorted(set(self._disk.names(self._directory)) - {paths.SEGMENT_ASIDE})
        for name in names:
            path = os.path.join(self._directory, name)
            base = paths.base_of(name)
            if base is None:
                raise StorageError(path, "this is not a segment of the log; move it elsewhere")
            due = segments[-1].limit if segments else base  # the first: `head` tells, once it is known
            if base >= self._upto:
                break
            self.files += 1
            fd = self._disk.open(path)
            try:
                head = self._disk.pread(fd, segment.BEGIN_BYTES, 0)
                if base != due:
                    missing = paths.segment(self._directory, due)
                    return segments, CorruptStore(
                        missing, f"the segment before {name} is missing: {ADVICE}", 0
                    )
                segments.append(segment.decode_header(identity, path, base, head))
            except BadHeader as error:
                # Synced before it is used: a bad header is either all that ever got
                # there, or damage.
                if name != names[-1] or not segment.is_zero(self._disk, fd, segment.HEADER_BYTES):
                    return segments, CorruptStore(path, str(error), 0)
                self.begun = path
            finally:
                self._disk.close(fd)
        return segments, None

    def drop_empty_tail(self, segments: list[Segment]) -> list[Segment]:
        """Forget segments that were created and not used; they are made again when needed."""
        dropped: list[Segment] = []
        while segments and self.zero_from(segments[-1], segments[-1].base):
            dropped.append(segments.pop())
        return dropped

    def fence(self, each: Segment) -> tuple[int, int]:
        """Where the fence at the start of *each* voids from (its base if there is none), and the head."""
        data = self._disk.pread(self.fd(each), record.FENCE_BYTES, each.offset(each.base))
        fence = record.fence_in(data, each.base, each.seed)
        return (fence.void_from, fence.head) if fence else (each.base, 0)

    def walk(self, found: Survey, apply: Apply, start: Start | None) -> bool:
        """Follow the records from the head, or *start*, to X; whether anything but zeros stands there."""
        begin = start.position if start else 0
        stops, stop = [], self._upto
        for each in reversed(found.segments):
            stops.append(min(stop, each.limit))
            if each.limit > begin:
                void_from, head = self.fence(each)
                stop, found.head = min(stop, void_from), max(found.head, head)
        live = [
            (each, stop)
            for each, stop in zip(found.segments, reversed(stops), strict=True)
            if stop > each.base and each.limit > max(begin, found.head)
        ]
        if start:
            found.head = max(found.head, start.head)
            self.check_start(start, live)
        for index, (each, stop) in enumerate(live):
            scan = self.scan(each, max(begin, each.base), stop)
            apply(scan)
            if scan.bad < scan.whole:  # a part of a group was applied
                raise StorageError(self.path(each), "changed while it was read; try again")
            found.end, found.bad = scan.end, scan.bad
            found.synced = max(found.synced, scan.synced)
            found.head = max(found.head, scan.head)
            found.last_ms = max(found.last_ms, each.created_ms + scan.last_ms)
            if scan.event_ms is not None:
                found.event_ms = max(found.event_ms, each.created_ms + scan.event_ms)
            found.skew_ms = each.skew_ms
            found.verdict = Verdict.CLEAN if scan.closed else Verdict.OPEN
            if scan.end < stop:
                return index + 1 < len(live) or not self.zero_from(each, scan.end)
        return False

    def check_start(self, start: Start, live: list[tuple[Segment, int]]) -> None:
        """StaleCheckpoint unless the record before *start* is the one that the checkpoint saw."""
        if not live or live[0][0].base != start.base or live[0][1] < start.position:
            raise StaleCheckpoint
        each = live[0][0]
        size = start.position - start.marker
        data = self._disk.pread(self.fd(each), size, each.offset(start.marker))
        header = record.parse(data)
        if header is None or len(data) < size or header.crc != start.crc:
            raise StaleCheckpoint
        if not segment.is_intact(self._disk, self.fd(each), each, start.marker):
            raise StaleCheckpoint

    def hear_claims_behind(self, found: Survey) -> int:
        """Raise W to the largest claim of any intact record behind X; the largest head that one names."""
        head = 0
        for each in found.segments:
            lsn: int | None = max(found.bad, each.base)
            while lsn is not None and lsn < each.limit:
                lsn = next_intact(self._disk, self.fd(each), each, lsn, each.limit)
                if lsn is not None:
                    scan = self.scan(each, lsn, each.limit)
                    scan.follow()
                    found.synced = max(found.synced, scan.synced)
                    head = max(head, scan.head)
                    lsn = max(scan.bad, lsn + 1)
        return head

    def explain(self, found: Survey, message_kinds: Collection[int]) -> CorruptStore:
        """What is wrong at X, and which messages may be gone with it."""
        holding = [each for each in found.segments if each.base <= found.bad < each.limit]
        if not holding:
            path = paths.segment(self._directory, found.next_base)
            return CorruptStore(path, f"missing; the log was on disk up to {found.synced}: {ADVICE}", 0)
        each = holding[0]
        stop = next_intact(self._disk, self.fd(each), each, found.bad, each.limit)
        stop = min(found.synced, each.limit) if stop is None else stop
        if self.zero_from(each, found.bad):
            reason = (
                f"nothing is here, but the log was on disk up to position {found.synced}: the file was cut"
                " off, or one after it is missing; nothing was changed"
            )
        else:
            reason = f"{stop - found.bad} bytes that were on disk are gone or altered; nothing was changed"
        ids = tuple(self.messages(each, found, stop, message_kinds))
        return CorruptStore(self.path(each), f"{reason}: {ADVICE}", each.offset(found.bad), ids)

    def messages(
        self, each: Segment, found: Survey, stop: int, message_kinds: Collection[int]
    ) -> Iterator[int]:
        """The messages that what lies in [X, *stop*) costs, as far as the lengths there can be followed.

        With a record, its whole group is gone: what stands before X, and what follows.
        """
        lsn, continues = found.end, False
        while lsn < stop or continues:
            header = record.parse(self._disk.pread(self.fd(each), record.HEADER_BYTES, each.offset(lsn)))
            if header is None or not any(header):
                return
            if lsn == found.bad or header.kind in message_kinds:
                yield lsn
            if header.low != lsn & record.LOW:
                return
            continues = bool(header.flags & record.CONTINUES)
            lsn += header.size


def is_gone(found: Survey, end: int) -> bool:
    """Whether records are missing: the page says that the log went up to *end*."""
    return not found.error and found.end < end <= found.next_base + GONE_BYTES_MAX


def pass_over(found: Survey, identity: Identity, end: int) -> None:
    """Give out no position below *end* again, though the files that had them are gone."""
    if found.verdict is Verdict.CLEAN:
        found.verdict = Verdict.OPEN
    if found.next_base < end:
        base, last = found.next_base, found.segments[-1] if found.segments else None
        number, created_ms = (last.number + 1, last.created_ms) if last else (0, 0)
        seed = record.seed(identity.key, base)
        filler = Segment(number, base, end - base, created_ms, seed, segment.FEATURES)
        found.unused, found.next_base = [filler, *found.unused], end


def recover(
    disk: Disk,
    directory: str,
    identity: Identity,
    mark: memoryview,
    found: Survey,
    now_ms: int,
    segment_bytes: int,
    skew: Callable[[], int] = int,
    *,
    anew: bool = False,
) -> Log:
    """Make what *found* describes durable, fence what is torn, and go on behind it.  Idempotent.

    *skew*: how far the wall clock is ahead of store time, ms.  *anew*: the page is not the one that was
    last used with this log, which may be a copy.  So it goes on in a new segment, with another epoch.

    A log whose newest segment an older mq made goes on in a new one: its header has the feature
    bit, and is on the disk, before anything that the older one does not know is written.
    """
    if found.error:
        raise found.error
    if anew:
        part_segments(disk, directory, (each for each in found.segments if each.limit > found.synced))
    rewrite(disk, directory, found.segments, found.synced, found.end)
    for word in range(shared.END, PAGE_BYTES // 8):  # also which processes wait, and are inside: none does
        if word not in shared.KEPT_BY_RECOVERY:
            mark[word] = 0
    mark[shared.SYNCED] = mark[shared.SYNCED_TWIN] = found.end
    reserve = Reserve(disk, paths.reserve(paths.store_of(directory)))
    while True:
        try:
            _renew_unused(disk, directory, identity, found)
            break
        except OSError as error:
            # On a full disk, the room kept back is for this too: else no process could drain it.
            if error.errno not in NO_ROOM or not reserve.give(RENEWING_BYTES):
                raise
    log = Log(disk, directory, identity, mark, found.segments, found.end, segment_bytes)
    log.owner = Owner(skew_ms=skew)
    if anew:
        log.epoch = another_epoch(log.epoch)
    try:
        log.trim(found.head)
        if found.verdict is not Verdict.CLEAN or log.segments[-1].features != segment.FEATURES or anew:
            log.restart(now_ms, found.next_base)
    except BaseException:
        log.close()
        raise
    return log


def _renew_unused(disk: Disk, directory: str, identity: Identity, found: Survey) -> None:
    """Have the segments that were begun and never used on the disk: a gap would pass for damage.

    The process that began them may have died before their headers and names were there, or the sync
    of the names may have failed, and a name that a failed sync lost is not made up for by
    another.  So each is made anew, and put in place of the old one.  The log goes on behind.
    """
    if found.begun:
        disk.unlink(found.begun)
        disk.sync_directory(directory)
    # Among the segments: what is beside them may be on another file system.
    aside = paths.segment_aside(directory)
    for each in found.unused:
        write_file(disk, aside, segment.encode_header(identity, each))
        disk.rename(aside, paths.segment(directory, each.base))
    if found.unused:
        disk.sync_directory(directory)
