"""The log as it lies on the disk, damaged places included.  Reads only; mends nothing.

Recovery stops at the first bad place and judges it.  The tools that show a log to a
person go on behind it, from one intact record to the next (look.py).

Each record is read once.  Recovery's own loop reads the log up to its first bad place, and
hands each block on to a `Look`: a tool that goes through all records.  Only when the verdict
is there, what is left is read:

    head ── recovery reads, `Look.see` ──► X ── judged; then `Walk.rest` ──► the last file

Of a log that is whole, nothing is left.

The verdict is recovery's own.  What cannot be read from where it belongs is taken from
where else it stands: the store's key from any segment's header, a segment's capacity
and creation time from its fence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from mq.errors import CorruptStore, MqError, StorageError

from . import checkpoint, copies, identity, locks, paths, record, recovery, segment, shared
from .disk import Disk
from .identity import Identity
from .look import Gap, Look, Refuse, Run, checked, refuse_nothing
from .recovery import Survey, Verdict
from .search import next_intact
from .segment import BLOCK_BYTES, BadHeader, Event, Scan, Segment, Stretch
from .shared import NO_LIMIT


class File(msgspec.Struct):
    """One segment's file."""

    segment: Segment
    path: str
    size: int
    bad_header: str = ""  # why, if it had to be rebuilt
    void_from: int = -1  # what its fence says; -1: it has none
    head: int = 0  # where the log began when the fence was written
    stop: int = 0  # no record of this segment stands here or behind
    reached: int = 0  # records once stood up to here at least


class Walk(msgspec.Struct):
    """Everything in the store at *path*: its `files`, and the `verdict` on the whole."""

    disk: Disk
    path: str
    identity: Identity
    view: shared.View
    survey: Survey | None  # None if recovery could not even judge
    problem: MqError | None  # why the store does not open
    files: list[File] = []
    missing: list[Gap] = []  # headers and whole files
    refuse: Refuse = refuse_nothing
    seen: dict[int, int] = {}  # by base: up to where recovery handed the records on

    @property
    def verdict(self) -> str:
        if isinstance(self.problem, CorruptStore):
            return Verdict.CORRUPT.value
        return "unreadable" if self.survey is None or self.problem else self.survey.verdict.value

    @property
    def synced(self) -> int:
        return self.survey.synced if self.survey else self.view.synced

    @property
    def head(self) -> int:
        """Where the log begins: segments before it are only not unlinked yet."""
        return self.survey.head if self.survey else max((file.head for file in self.files), default=0)

    @property
    def end(self) -> int:
        """Where the log ends; of a damaged one, the part that is whole."""
        return self.survey.end if self.survey else 0

    def rest(self, look: Look) -> None:
        """Let *look* see what recovery did not hand on to it."""
        missing = list(self.missing)
        for file in self.files:
            while missing and missing[0].lsn <= file.segment.base:
                look.see(None, missing.pop(0))
            for part in self.runs(file):
                look.see(file.segment, part)
        for gap in missing:
            look.see(None, gap)

    def runs(self, file: File) -> Iterator[Run | Gap]:
        """What stands in *file*, in order, but for void and unused bytes, and for what was handed on."""
        if self.seen.get(file.segment.base, -1) >= file.stop:
            return
        fd = self.disk.open(file.path)
        try:
            yield from self._runs(fd, file)
        finally:
            self.disk.close(fd)

    def _runs(self, fd: int, file: File) -> Iterator[Run | Gap]:
        each, lsn = file.segment, self.seen.get(file.segment.base, file.segment.base)
        while lsn < file.stop:
            scan = _Everything(self.disk, fd, each, lsn, file)
            for stretch in scan.intact():
                yield from self._judged(file, stretch)
            lsn = scan.stopped
            if lsn >= file.stop:
                return
            stop = next_intact(self.disk, fd, each, lsn + 1, file.stop)
            if stop is None:
                stop = max(_last_byte(self.disk, fd, file, lsn), file.reached)
            if stop <= lsn:
                return
            yield self._gap(file, lsn, stop)
            lsn = stop

    def _judged(self, file: File, stretch: Stretch) -> Iterator[Run | Gap]:
        """The same records: which of them recovery leaves out, and which it refuses."""
        torn_from = self.end if self.verdict == Verdict.TORN.value else NO_LIMIT
        kept = bisect_left(stretch.lsns, torn_from)
        stale = file.segment.limit <= self.head
        for part in checked(file.path, file.segment, stretch.part(0, kept), self.refuse):
            yield part._replace(stale=stale) if isinstance(part, Run) else part
        if kept < len(stretch.lsns):
            yield Run(stretch.part(kept), dropped=True, stale=stale)

    def size(self, file: File, lsns: Iterable[int]) -> int:
        """The bytes that the intact records at *lsns*, all in *file*, take together."""
        fd = self.disk.open(file.path)
        try:
            return self._size(fd, file, sorted(lsns))
        finally:
            self.disk.close(fd)

    def _size(self, fd: int, file: File, places: Sequence[int]) -> int:
        size, at = record.HEADER_BYTES * len(places), 0
        while at < len(places):
            first = places[at]
            block = self.disk.pread(fd, min(BLOCK_BYTES, file.stop - first), file.segment.offset(first))
            behind = max(at + 1, bisect_left(places, first + len(block) - record.HEADER_BYTES + 1, at))
            size += sum([record.LENGTH.unpack_from(block, lsn - first)[0] for lsn in places[at:behind]])
            at = behind
        return size

    def _gap(self, file: File, lsn: int, stop: int) -> Gap:
        torn = lsn >= self.synced
        reason = "torn, never finished" if torn else "damaged, gone or altered after it was on the disk"
        return Gap(file.path, file.segment.offset(lsn), lsn, stop - lsn, reason, torn)


class _Everything(Scan):
    """Every intact record in [start, file.stop): those of storage too, and of groups without an end."""

    def __init__(self, disk: Disk, fd: int, segment: Segment, start: int, file: File) -> None:
        # As if all were one group, of which it is known that it is whole: then none is held back.
        super().__init__(disk, fd, segment, start, file.stop, file.path, whole=file.stop, least=1)
        self._none_at = NO_LIMIT

    @property
    def stopped(self) -> int:
        """The first place that is none."""
        return min(self.bad, self._none_at)

    def intact(self) -> Iterator[Stretch]:
        for found in self.blocks():
            for stretch in found:
                if kept := bisect_left(stretch.lsns, self._none_at):
                    yield stretch.part(0, kept)
            if self._none_at < NO_LIMIT:
                return

    def note(self, event: Event) -> None:
        """Nothing is of kind 0, though its checksum passes."""
        self._none_at = min(self._none_at, event[0])


def _last_byte(disk: Disk, fd: int, file: File, lsn: int) -> int:
    """Behind the last byte in [lsn, stop) that is not zero; *lsn* if all are."""
    last, at = lsn, lsn
    while at < file.stop:
        block = disk.pread(fd, min(BLOCK_BYTES, file.stop - at), file.segment.offset(at))
        if not block:
            break
        if used := len(block.rstrip(b"\0")):
            last = at + used
        at += len(block)
    return last


def walk(
    disk: Disk, path: str, message_kinds: Collection[int], *, alone: bool = False,
    refuse: Refuse = refuse_nothing,
    look: Look | None = None,
) -> Walk:  # fmt: skip
    """The store in the directory *path*; StorageError if there is none, or no key to read it with.

    *alone*: the caller has the store's lock, so no other process is there to say where the log ends.  An
    event that *refuse* has something against is a gap, too.  *look* sees what recovery reads; the rest is
    what `Walk.rest` shows.
    """
    own, broken = _identify(disk, path)
    while True:
        view = _look(disk, path, own.key, alone)
        try:
            found = _judge(disk, path, own, view, message_kinds, refuse, look)
            found.problem = broken or found.problem
            _list_files(found, paths.log(path))
            if not alone:
                _note_gone(found, paths.log(path))
        except FileNotFoundError:
            if not view.held or not disk.exists(paths.log(path)):
                raise
            continue  # compaction dropped a segment before it was read
        if view.held and not found.problem and not found.missing:
            return found
        if not view.explains(_look(disk, path, own.key, alone)):
            return found


def read(
    disk: Disk, path: str, message_kinds: Collection[int], look: Look, refuse: Refuse = refuse_nothing
) -> Walk:
    """Let *look* see all of the store; started over if compaction drops a segment meanwhile."""
    while True:
        found = walk(disk, path, message_kinds, refuse=refuse, look=look)
        try:
            found.rest(look)
            return found
        except FileNotFoundError:
            if not found.view.held:
                raise


def _identify(disk: Disk, path: str) -> tuple[Identity, CorruptStore | None]:
    """Which store this is, and what is wrong with its FORMAT file."""
    format_path, directory = paths.format_file(path), paths.log(path)
    error: CorruptStore | None = None
    if disk.exists(format_path):
        try:
            return identity.read(disk, format_path), None
        except CorruptStore as caught:
            error = caught
    own = _identity_in_headers(disk, directory)
    if own:
        reason = "missing; restore it from a copy, or let `mq repair` write it again"
        return own, error or CorruptStore(format_path, reason)
    raise error or StorageError(path, "this is not a store: it has no FORMAT file; check the path")


def _identity_in_headers(disk: Disk, directory: str) -> Identity | None:
    """Which store this is, from the first segment whose header passes its checksum."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = disk.names(directory)
    for base in paths.segment_bases(names):
        fd = disk.open(paths.segment(directory, base))
        try:
            data = disk.pread(fd, segment.HEADER_BYTES, 0)
        finally:
            disk.close(fd)
        if found := segment.identity_in(data):
            return found
    return None


def _judge(
    disk: Disk, path: str, own: Identity, view: shared.View, message_kinds: Collection[int], refuse: Refuse,
    look: Look | None,
) -> Walk:  # fmt: skip
    """Recovery's verdict; *look* sees the whole groups of records before X."""
    directory, seen = paths.log(path), dict[int, int]()

    def apply(scan: Scan) -> None:
        if look is None:
            scan.follow()
        else:
            _hand_on(look, refuse, paths.segment(directory, scan.segment.base), scan)
            seen[scan.segment.base] = scan.end

    end = recovery.end_of_files(disk, directory, view.upto) if look else 0
    survey: Survey | None = None
    problem: MqError | None = None
    if look:
        look.begin(end)
    try:
        survey = recovery.survey(disk, directory, own, view.synced, apply, message_kinds, view.upto)
        problem = copies.explained(survey.error) if survey.error and view.copied else survey.error
    except MqError as error:
        problem = error
        if look:
            look.begin(end)  # how far it was read, nothing tells
        seen.clear()
    return Walk(disk, path, own, view, survey, problem, refuse=refuse, seen=seen)


def _hand_on(look: Look, refuse: Refuse, path: str, scan: Scan) -> None:
    scan.least = 1
    for stretch in scan:
        if min(stretch.kinds()) < record.FIRST_EVENT:
            for event in stretch.events():
                if event[1] < record.FIRST_EVENT:
                    scan.note(event)
        for part in checked(path, scan.segment, stretch, refuse):
            look.see(scan.segment, part)


def _look(disk: Disk, path: str, key: bytes, alone: bool) -> shared.View:
    """The store as it is now, with what a checkpoint claims: it was made when the log was synced so far."""
    if alone:
        words = shared.read_mark(disk, paths.mark(path), key)
        copied = shared.is_copied(words)
        view = shared.View(False, words[shared.END], shared.claimed(words), words[shared.HEAD], copied)
    else:
        view = locks.look(disk, path, key)
    if view.copied:
        return view
    newest = checkpoint.newest(disk, paths.checkpoints(path), key, view.upto)
    return view._replace(synced=max(view.synced, newest.position)) if newest else view


def _list_files(walk: Walk, directory: str) -> None:
    """Fill in the files, oldest first, and where the records of each may stand."""
    crashed = not isinstance(walk.problem, CorruptStore)
    for base in paths.segment_bases(walk.disk.names(directory)):
        if base < walk.view.upto:
            file = _file(walk, paths.segment(directory, base), base, len(walk.files))
            if walk.view.held and file.segment.limit <= walk.view.head:
                continue  # not part of the log any more, and about to go
            if file.bad_header:
                gap = Gap(file.path, 0, base, segment.HEADER_BYTES, file.bad_header, crashed)
                walk.missing.append(gap)
            walk.files.append(file)
    for file, after in pairwise(walk.files):
        if file.bad_header and file.void_from < 0:  # neither says how far it goes
            file.segment = replace(file.segment, capacity=after.segment.base - file.segment.base)
    _note_missing(walk, directory)
    settled = walk.survey is not None and walk.verdict in (Verdict.CLEAN.value, Verdict.OPEN.value)
    stop, reached = min(walk.view.upto, walk.end if settled else NO_LIMIT), walk.synced
    limit = NO_LIMIT
    for file in reversed(walk.files):
        each = file.segment
        # How far the records of a segment went is known from the fence of the next one.
        known = limit == NO_LIMIT or limit == each.limit
        file.stop = min(stop, each.limit)
        file.reached = min(reached, file.stop) if known and reached <= each.limit else each.base
        limit, reached = each.base, NO_LIMIT
        if file.void_from >= 0:
            stop, reached = min(stop, file.void_from), file.void_from


def _note_missing(walk: Walk, directory: str) -> None:
    """Find the files that should be there and are not."""
    due = walk.head
    for file in walk.files:
        if file.segment.base > due:
            walk.missing.append(_hole(directory, due, file.segment.base, "missing"))
        due = max(due, file.segment.limit)
    if due < walk.synced:
        walk.missing.append(_hole(directory, due, walk.synced, "missing, with all that may have followed"))
    walk.missing.sort(key=lambda gap: gap.lsn)


def _note_gone(walk: Walk, directory: str) -> None:
    """Find that records are missing at the end, which no sync had confirmed."""
    view, survey = walk.view, walk.survey
    words = shared.read_mark(walk.disk, paths.mark(walk.path), walk.identity.key)
    end = view.end if view.held else shared.end_of_this_boot(words, walk.disk.clocks()[0])
    if survey and not walk.problem and recovery.is_gone(survey, end):
        holding = [file for file in walk.files if file.segment.base <= survey.end < file.segment.limit]
        if holding and end <= survey.next_base:
            file = holding[-1]
            offset = file.segment.offset(survey.end)
            gap = Gap(file.path, offset, survey.end, end - survey.end, shared.GONE, torn=False)
        else:
            gap = _hole(directory, survey.next_base, end, shared.GONE)
        walk.missing.append(gap)


def _hole(directory: str, start: int, stop: int, reason: str) -> Gap:
    return Gap(paths.segment(directory, start), 0, start, stop - start, reason, False)


def _file(walk: Walk, path: str, base: int, index: int) -> File:
    """The segment at *base*, even if its header is damaged."""
    disk = walk.disk
    fd = disk.open(path)
    try:
        size = disk.size(fd)
        head = disk.pread(fd, segment.BEGIN_BYTES, 0)
        seed = record.seed(walk.identity.key, base)
    finally:
        disk.close(fd)
    fence = record.fence_in(head[segment.HEADER_BYTES :], base, seed)
    if fence is None:
        fence = record.Fence(-1, 0, max(1, size - segment.HEADER_BYTES), 0)
    try:
        each, reason = segment.decode_header(walk.identity, path, base, head), ""
    except (BadHeader, MqError) as error:
        each, reason = Segment(index, base, fence.capacity, fence.created_ms, seed), str(error)
    return File(each, path, size, reason, fence.void_from, fence.head)
