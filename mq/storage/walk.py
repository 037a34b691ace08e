"""The log as it lies on the disk, damaged places included.  Reads only; mends nothing.

Recovery stops at the first bad place and judges it.  The tools that show a log to a
person go on behind it, from one intact record to the next:

    ┌────────┬────────┬░░░░░░░░░░░┬────────┬────────┬───────────┐
    │ Found  │ Found  │    Gap    │ Found  │ Found  │   zeros   │
    └────────┴────────┴░░░░░░░░░░░┴────────┴────────┴───────────┘

The verdict is recovery's own.  What cannot be read from where it belongs is taken from
where else it stands: the store's key from any segment's header, a segment's capacity
and creation time from its fence.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple

from crc32c import crc32c

from mq.errors import CorruptStore, MqError, StorageError

from . import checkpoint, identity, locks, record, recovery, segment, shared
from .disk import Disk
from .far import read_far
from .identity import Identity
from .recovery import Survey, Verdict
from .search import next_intact
from .segment import BadHeader, Payload, Segment
from .shared import NO_LIMIT

BLOCK_BYTES: Final = 1 << 20


class Found(NamedTuple):
    """An intact record."""

    lsn: int
    kind: int
    flags: int
    queue: int
    ms: int  # since 1970, in store time
    content: Payload  # the payload; a long one is not held in memory, and only there while its file is read
    dropped: bool  # behind the end of a torn log: recovery leaves it out

    @property
    def size(self) -> int:
        return record.HEADER_BYTES + len(self.content)

    @property
    def payload(self) -> bytes:
        """All of it."""
        return self.content[:]


class Gap(NamedTuple):
    """Bytes that should be records and are not; or a record that recovery refuses."""

    path: str
    offset: int
    lsn: int
    size: int
    reason: str
    torn: bool  # nobody claimed that they were on the disk: what a crash leaves, not damage


Refuse = Callable[[int, int, Payload, int], str]
"""(kind, flags, payload, its size) → why recovery refuses such an intact event; "" if it does not."""


def _nothing(kind: int, flags: int, payload: Payload, size: int) -> str:
    return ""


@dataclass
class File:
    """One segment's file."""

    segment: Segment
    path: str
    size: int
    bad_header: str = ""  # why, if it had to be rebuilt
    void_from: int = -1  # what its fence says; -1: it has none
    head: int = 0  # where the log began when the fence was written
    stop: int = 0  # no record of this segment stands here or behind
    reached: int = 0  # records once stood up to here at least


@dataclass
class Walk:
    """Everything in the store at *path*: `files`, `items(file)` of each, and the `verdict` on the whole."""

    disk: Disk
    path: str
    identity: Identity
    view: shared.View
    survey: Survey | None  # None if recovery could not even judge
    problem: MqError | None  # why the store does not open
    files: list[File] = field(default_factory=list)
    missing: list[Gap] = field(default_factory=list)  # headers and whole files
    refuse: Refuse = _nothing

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

    def items(self, file: File) -> Iterator[Found | Gap]:
        """What stands in *file*, in order; void and unused bytes are left out."""
        fd = self.disk.open(file.path)
        try:
            yield from self._items(_Window(self.disk, fd, file), file)
        finally:
            self.disk.close(fd)

    def _items(self, window: _Window, file: File) -> Iterator[Found | Gap]:
        each, lsn = file.segment, file.segment.base
        torn_from = self.end if self.verdict == Verdict.TORN.value else NO_LIMIT
        while lsn < file.stop:
            found = window.record(lsn, torn_from)
            if found:
                why = "" if found.dropped else self._refusal(found)
                yield Gap(file.path, each.offset(lsn), lsn, found.size, why, torn=False) if why else found
                lsn += found.size
                continue
            stop = next_intact(self.disk, window.fd, each, lsn + 1, file.stop)
            if stop is None:
                stop = max(window.last_byte(lsn), file.reached)
            if stop <= lsn:
                return
            yield self._gap(file, lsn, stop)
            lsn = stop

    def _refusal(self, found: Found) -> str:
        return self.refuse(found.kind, found.flags, found.content, len(found.content))

    def size(self, file: File, lsns: Sequence[int]) -> int:
        """The bytes that the intact records at *lsns*, all in *file*, take together."""
        fd = self.disk.open(file.path)
        try:
            window = _Window(self.disk, fd, file)
            heads = (window.read(lsn, record.HEADER_BYTES) for lsn in sorted(lsns))
            return sum(record.HEADER_BYTES + int(record.HEADER.unpack(head)[1]) for head in heads)
        finally:
            self.disk.close(fd)

    def _gap(self, file: File, lsn: int, stop: int) -> Gap:
        torn = lsn >= self.synced
        reason = "torn, never finished" if torn else "damaged, gone or altered after it was on the disk"
        return Gap(file.path, file.segment.offset(lsn), lsn, stop - lsn, reason, torn)


class _Window:
    """A segment's file, read a block at a time."""

    def __init__(self, disk: Disk, fd: int, file: File) -> None:
        self._disk, self.fd, self._file = disk, fd, file
        self._block, self._first = b"", 0

    def read(self, lsn: int, size: int) -> bytes:
        at = lsn - self._first
        if at < 0 or at + size > len(self._block):
            want = min(max(size, BLOCK_BYTES), self._file.stop - lsn)
            self._block = self._disk.pread(self.fd, want, self._file.segment.offset(lsn))
            self._first, at = lsn, 0
        return self._block[at : at + size]

    def record(self, lsn: int, torn_from: int) -> Found | None:
        """The record at *lsn*, if there is one that passes."""
        head = self.read(lsn, record.HEADER_BYTES)
        if len(head) < record.HEADER_BYTES:
            return None
        crc, length, low, _, ms, kind, flags, queue = record.HEADER.unpack(head)
        size = record.HEADER_BYTES + length
        if not kind or low != lsn & record.LOW or lsn + size > self._file.stop:
            return None
        each = self._file.segment
        content: Payload | None = None
        if size > BLOCK_BYTES:
            content = read_far(self._disk, self.fd, each.offset(lsn), each.seed)
        else:
            data = self.read(lsn, size)
            if len(data) == size and crc32c(memoryview(data)[4:], each.seed) == crc:
                content = data[record.HEADER_BYTES :]
        if content is None:
            return None
        return Found(lsn, kind, flags, queue, each.created_ms + ms, content, lsn >= torn_from)

    def last_byte(self, lsn: int) -> int:
        """Behind the last byte in [lsn, stop) that is not zero; *lsn* if all are."""
        last, at = lsn, lsn
        while at < self._file.stop:
            want = min(BLOCK_BYTES, self._file.stop - at)
            block = self._disk.pread(self.fd, want, self._file.segment.offset(at))
            if not block:
                break
            if used := len(block.rstrip(b"\0")):
                last = at + used
            at += len(block)
        return last


def walk(
    disk: Disk, path: str, message_kind: int, *, alone: bool = False, refuse: Refuse = _nothing
) -> Walk:  # fmt: skip
    """The store in the directory *path*; StorageError if there is none, or no key to read it with.

    *alone*: the caller has the store's lock, so nobody else is there to vouch for the log's end.  An
    event that *refuse* has something against is a gap, too.
    """
    own, broken = _identify(disk, path)
    while True:
        view = _look(disk, path, own.key, alone)
        try:
            found = _judge(disk, path, own, view, message_kind)
            found.problem, found.refuse = broken or found.problem, refuse
            _list_files(found, os.path.join(path, "log"))
            if not alone:
                _note_gone(found, os.path.join(path, "log"))
        except FileNotFoundError:
            if not view.held or not disk.exists(os.path.join(path, "log")):
                raise
            continue  # compaction dropped a segment before it was read
        if view.held and not found.problem and not found.missing:
            return found
        if not view.explains(_look(disk, path, own.key, alone)):
            return found


def _identify(disk: Disk, path: str) -> tuple[Identity, CorruptStore | None]:
    """Which store this is, and what is wrong with its FORMAT file."""
    format_path, directory = os.path.join(path, "FORMAT"), os.path.join(path, "log")
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
        names = sorted(disk.names(directory))
    for name in names:
        if segment.NAME.fullmatch(name):
            fd = disk.open(os.path.join(directory, name))
            try:
                data = disk.pread(fd, segment.HEADER_BYTES, 0)
            finally:
                disk.close(fd)
            if len(data) == segment.HEADER_BYTES:
                magic, *_, store_id, key, _, _, _, crc = segment.HEADER.unpack(data)
                if magic == segment.MAGIC and crc32c(data[:-4]) == crc:
                    return Identity(store_id.hex(), key)
    return None


def _judge(disk: Disk, path: str, own: Identity, view: shared.View, message_kind: int) -> Walk:
    """Recovery's verdict."""
    ignore: Callable[[Iterable[object]], None] = deque[object](maxlen=0).extend
    directory = os.path.join(path, "log")
    try:
        survey = recovery.survey(disk, directory, own, view.synced, ignore, message_kind, view.upto)
    except MqError as error:
        return Walk(disk, path, own, view, None, error)
    return Walk(disk, path, own, view, survey, survey.error)


def _look(disk: Disk, path: str, key: bytes, alone: bool) -> shared.View:
    """The store as it is now, with what a checkpoint claims: it was made when the log was synced so far."""
    if alone:
        words = shared.read_mark(disk, os.path.join(path, "mark"), key)
        view = shared.View(False, words[shared.END], shared.claimed(words), words[shared.HEAD])
    else:
        view = locks.look(disk, path, key)
    newest = checkpoint.newest(disk, os.path.join(path, "checkpoint"), key, view.upto)
    return view._replace(synced=max(view.synced, newest.position)) if newest else view


def _list_files(walk: Walk, directory: str) -> None:
    """Fill in the files, oldest first, and where the records of each may stand."""
    crashed = not isinstance(walk.problem, CorruptStore)
    for name in sorted(walk.disk.names(directory)):
        match = segment.NAME.fullmatch(name)
        if match and int(match[1]) < walk.view.upto:
            file = _file(walk, os.path.join(directory, name), int(match[1]), len(walk.files))
            base = file.segment.base
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
    words = shared.read_mark(walk.disk, os.path.join(walk.path, "mark"), walk.identity.key)
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
    return Gap(os.path.join(directory, f"{start:020}.seg"), 0, start, stop - start, reason, False)


def _file(walk: Walk, path: str, base: int, index: int) -> File:
    """The segment at *base*, even if its header is damaged."""
    disk = walk.disk
    fd = disk.open(path)
    try:
        size = disk.size(fd)
        head = disk.pread(fd, segment.BEGIN_BYTES, 0)
        seed = record.seed(walk.identity.key, base)
        data = disk.pread(fd, record.FENCE_BYTES, segment.HEADER_BYTES)
    finally:
        disk.close(fd)
    whole = len(data) == record.FENCE_BYTES and data[20] == record.FENCE
    fenced = whole and crc32c(data[4:], seed) == record.CRC.unpack_from(data)[0]
    void_from, log_head, capacity, created_ms = -1, 0, max(1, size - segment.HEADER_BYTES), 0
    if fenced:
        void_from, log_head, capacity, created_ms = record.FENCE_PAYLOAD.unpack_from(
            data, record.HEADER_BYTES
        )
    try:
        each, reason = segment.decode_header(walk.identity, path, base, head), ""
    except (BadHeader, MqError) as error:
        each, reason = Segment(index, base, capacity, created_ms, seed), str(error)
    return File(each, path, size, reason, void_from, log_head)
