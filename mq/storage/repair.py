"""Make a damaged log whole again.  What is damaged is copied first, and nothing else is lost.

    ┌────────┬────────┬░░░░░░░░░░░░░░░░░░░░░░┬────────┐
    │ record │ record │ damaged              │ record │
    └────────┴────────┴░░░░░░░░░░░░░░░░░░░░░░┴────────┘
                      x                      y
    ┌────────┬────────┬──────┬░░░░░░░░░░░░░░░┬────────┐
    │ record │ record │ LOST │ its payload   │ record │
    └────────┴────────┴──────┴░░░░░░░░░░░░░░░┴────────┘

Only the 24 bytes of a record's header are written at x: its length reaches to y, and its
checksum covers the damaged bytes as they stand.  So the chain of records is whole, and
every later opening reads it as it reads any other.  Nothing that is intact is moved.

Each step copies, syncs, changes one thing, syncs, and leaves a log that is no more
damaged than before: repair may be killed anywhere, and run again.  It is a loop: look at
the log, mend the first kind of damage there is, look again.

    FORMAT damaged or missing      written again, from a segment's header
    a header damaged               written again, from the fence, or from the neighbours
    a segment missing              created, and then damaged all over
    records damaged                LOST
    an event that recovery refuses the same: a mistake of an older mq wrote it
    a fence damaged                written again: it voids what is behind the records before it
    nothing says where the log     the first fence says it, from now on
      begins, or its first
      segment is missing

What is only torn is left to recovery.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import zip_longest
from typing import Final, NamedTuple

from mq.errors import CorruptStore

from . import copies, identity, locks, paths, record, segment, shared
from .crc import crc32c
from .disk import PAGE_BYTES, Disk, write_all
from .explain import explain
from .look import Gap, Refuse, Run
from .overlay import Overlay
from .quarantine import COPY_BYTES, Quarantine
from .rewrite import sync_or_drop
from .segment import Segment
from .suspects import Name, suspects
from .walk import File, Walk, walk

ROUNDS_MAX: Final = 16  # of looking and mending; each kind of damage takes one
LOST_BYTES_MAX: Final = 64 << 20  # of one record: a longer stretch becomes several
WORDS_BYTES: Final = 8 * shared.WORDS
MISSING_BYTES_MAX: Final = 1 << 40  # a mark that claims more than this behind the log's end is not believed


Shown = Callable[[int, int], object]  # bytes that were read, of how many


class Loss(NamedTuple):
    """One damaged place, and what became of it."""

    path: str
    offset: int
    size: int  # bytes that stood there; or should have
    ids: tuple[int, ...]  # the messages whose bodies may be gone with them
    reason: str
    copy: str  # the file that has the bytes as they were found; "" if there were none

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.ids[:10])) + (", …" if self.ids[10:] else "")
        lost = f"; message {ids}" if ids else ""
        kept = f"; copied to {self.copy}" if self.copy else ""
        return f"{self.path} at offset {self.offset}: {self.size:,} bytes, {self.reason}{lost}{kept}"


def _show_nothing(done: int, total: int) -> None:
    pass


def repair(
    disk: Disk, path: str, message_kinds: Collection[int], name: Name, refuse: Refuse, *,
    dry_run: bool = False, show: Shown = _show_nothing,
) -> list[Loss]:  # fmt: skip
    """Mend the store in the directory *path*; what was damaged.  StoreLocked if a process has it open.

    An event that *refuse* has something against goes too.  *dry_run*: the same, on a disk that keeps
    every change to itself.  *show* is told how many bytes of the log were read, of how many; it is read
    again after each kind of damage that was mended.
    """
    with explain(path):
        if dry_run:
            if locks.is_present(disk, path):
                raise locks.locked(disk, path, [paths.FORMAT, "", paths.LOCK])
            overlay = Overlay(disk, paths.quarantine(path))
            try:
                return mend(overlay, path, message_kinds, name, refuse, show)
            finally:
                overlay.release()
        with locks.alone(disk, path):
            return mend(disk, path, message_kinds, name, refuse, show)


def mend(
    disk: Disk, path: str, message_kinds: Collection[int], name: Name, refuse: Refuse,
    show: Shown = _show_nothing,
) -> list[Loss]:  # fmt: skip
    """The same, for a caller that holds the store's lock."""
    losses: list[Loss] = []
    disk.make_directory(paths.log(path))
    for _ in range(ROUNDS_MAX):
        places = _Places(show)
        found = walk(disk, path, message_kinds, alone=True, refuse=refuse, look=places)
        if found.problem is None:
            done = _Round(disk, path, found, places, name).mend_refused()
            if not done:
                return losses
        elif not isinstance(found.problem, CorruptStore):
            raise found.problem
        else:
            done = _Round(disk, path, found, places, name).mend()
        if not done:
            break
        losses += done
    assert found.problem
    raise found.problem


class _Place:
    """What is bad in one segment."""

    def __init__(self, end: int) -> None:
        self.gaps: list[tuple[Gap, int]] = []  # with the time of the record before
        self.end = end  # of the records
        self.ms = 0  # of the last one
        self.torn = False  # behind `end`
        self.void = False  # what is behind `end`


class _Places:
    """A Look: the damaged places of each segment, by its base."""

    def __init__(self, show: Shown) -> None:
        self._found: dict[int, _Place] = {}
        self._show, self._start, self._end = show, -1, 0

    def begin(self, end: int) -> None:
        self._found.clear()
        self._start, self._end = -1, end

    def at(self, each: Segment) -> _Place:
        return self._found.setdefault(each.base, _Place(each.base))

    def see(self, each: Segment | None, part: Gap | Run) -> None:
        if isinstance(part, Run):
            self._start = part.start if self._start < 0 else self._start
            self._show(part.end - self._start, self._end - self._start)
        if each is None or (place := self.at(each)).torn or place.void:
            return
        if isinstance(part, Run):
            place.ms, place.end = part.stretch.part(-1).events()[0][4], part.end
        elif part.torn:
            place.torn = True
        elif part.lsn != each.base and part.size < record.HEADER_BYTES:
            place.void = True  # less than a record, and the fence behind is gone
        else:
            place.gaps.append((part, place.ms))
            place.end = part.lsn + part.size


class _Round:
    """One look at the log, and the mending of the first kind of damage found."""

    def __init__(self, disk: Disk, path: str, found: Walk, places: _Places, name: Name) -> None:
        self._disk, self._path, self._walk, self._name = disk, path, found, name
        self._places = places
        self._log, self._quarantine = paths.log(path), Quarantine(disk, path)

    def mend(self) -> list[Loss]:
        """What was mended; nothing, if there is nothing that could be."""
        if loss := self._mend_format() or self._mend_mark():
            return [loss]
        self._drop_checkpoints()
        return self._mend_headers() or self._create_missing() or self._mend_records() or self._mend_head()

    def mend_refused(self) -> list[Loss]:
        """Of a log that is whole: put LOST records over the events that recovery refuses."""
        losses = self._mend_records()
        if losses:
            self._drop_checkpoints()  # one may be older, or speak of what was lost
        return losses

    # ── what stands beside the log ─────────────────────────────────────────────────

    def _mend_format(self) -> Loss | None:
        path = paths.format_file(self._path)
        size, copy, reason = 0, "", "missing; written again from a segment's header"
        if self._disk.exists(path):
            try:
                identity.read(self._disk, path)
                return None
            except CorruptStore:
                reason = "damaged; written again from a segment's header"
            size, copy = self._quarantine.save_file(path)
        identity.write(self._disk, path, self._walk.identity)
        return Loss(path, 0, size, (), reason, copy)

    def _mend_mark(self) -> Loss | None:
        """A page that claims more than it says there is has no checksum to tell which of both is wrong."""
        path = paths.mark(self._path)
        words = shared.read_mark(self._disk, path, self._walk.identity.key)
        end, synced = words[shared.END], shared.claimed(words)
        if synced > end:
            _, copy = self._quarantine.save_file(path)
            self._write_mark(path, end, end)
            reason = f"it claims that the log was synced up to {synced}, but ended at {end}; not believed"
            return Loss(path, shared.SYNCED * 8, 8, (), reason, copy)
        limit = max((file.segment.limit for file in self._walk.files), default=0)
        if synced > limit + MISSING_BYTES_MAX:
            reason = f"it claims that the log was synced up to {synced}, far behind any segment; if that"
            raise CorruptStore(path, reason + " cannot be, remove it and run `mq repair` again", 0)
        return None

    def _write_mark(self, path: str, end: int, synced: int) -> None:
        words = shared.read_mark(self._disk, path, self._walk.identity.key)
        words[shared.KEY] = int.from_bytes(self._walk.identity.key, "little")
        words[shared.END], words[shared.SYNCED], words[shared.SYNCED_TWIN] = end, synced, synced
        fd = self._disk.open(path, write=True, create=True)
        try:
            whole = self._disk.size(fd) >= PAGE_BYTES
            page = b"".join(word.to_bytes(8, "little") for word in words)
            write_all(self._disk, fd, page[:WORDS_BYTES] if whole else page, 0)
            sync_or_drop(self._disk, fd)
        finally:
            self._disk.close(fd)

    def _drop_checkpoints(self) -> None:
        """They speak of what may be lost.  What they claim as synced stays claimed, by the mark."""
        directory = paths.checkpoints(self._path)
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = sorted(filter(paths.CHECKPOINT_FILE.fullmatch, self._disk.names(directory)))
        if not names:
            return
        path = paths.mark(self._path)
        words = shared.read_mark(self._disk, path, self._walk.identity.key)
        synced = self._walk.view.synced
        if synced > shared.claimed(words):
            self._write_mark(path, max(words[shared.END], synced), synced)
            self._disk.sync_directory(self._path)
        for each in names:
            self._disk.unlink(os.path.join(directory, each))
        self._disk.sync_directory(directory)

    # ── segments ───────────────────────────────────────────────────────────────────

    def _mend_headers(self) -> list[Loss]:
        """Write damaged headers again."""
        losses = []
        files = self._walk.files
        for index, file in enumerate(files):
            if not file.bad_header:
                continue
            last = index == len(files) - 1
            if last and self._walk.synced <= file.segment.base and self._is_unused(file):
                continue  # torn while it was made
            self._refuse_foreign(file)
            each = self._guess(files, index)
            copy = self._quarantine.save(file.path, each.name, 0, segment.HEADER_BYTES)
            self._write(file.path, segment.encode_header(self._walk.identity, each), 0)
            reason = "the segment's header, damaged; written again"
            losses.append(Loss(file.path, 0, segment.HEADER_BYTES, (), reason, copy))
        return losses

    def _is_unused(self, file: File) -> bool:
        fd = self._disk.open(file.path)
        try:
            return segment.is_zero(self._disk, fd, segment.HEADER_BYTES)
        finally:
            self._disk.close(fd)

    def _refuse_foreign(self, file: File) -> None:
        """A header that passes its checksum, and still is not the one that belongs here, is not damage."""
        fd = self._disk.open(file.path)
        try:
            head = self._disk.pread(fd, segment.HEADER_BYTES, 0)
        finally:
            self._disk.close(fd)
        if segment.header_passes(head):
            raise CorruptStore(file.path, file.bad_header, 0)

    def _guess(self, files: list[File], index: int) -> Segment:
        """The header of a segment, from its fence or, without it, from the neighbours."""
        file = files[index]
        each = file.segment
        before = files[index - 1].segment if index else None
        after = files[index + 1] if index + 1 < len(files) else None
        capacity, created_ms = each.capacity, each.created_ms
        if file.void_from < 0:
            near = before or (after.segment if after else None)
            created_ms = near.created_ms if near else 0
            if after:
                capacity = after.segment.base - each.base
            else:
                used = file.size - segment.HEADER_BYTES
                least = max(used, self._walk.synced - each.base, record.FENCE_BYTES)
                capacity = max(least, before.capacity if before else 0)
        number = before.number + 1 if before else max(0, after.segment.number - 1) if after else 0
        return Segment(number, each.base, capacity, created_ms, each.seed, self._features())

    def _features(self) -> int:
        """The bits of a header that is made up: those of all others, and what the page's version says.

        Too many only keep an older mq out, which would meet later what it does not know.
        """
        bits = 0
        for file in self._walk.files:
            bits |= 0 if file.bad_header else file.segment.features
        words = shared.read_mark(self._disk, paths.mark(self._path), self._walk.identity.key)
        return bits | segment.REVISION_2 if words[shared.VERSION] else bits

    def _create_missing(self) -> list[Loss]:
        """Create the segments that are missing between others, or behind the last one.

        Their records are then found to be damaged.
        """
        files = [file.segment for file in self._walk.files]
        synced, key = self._walk.synced, self._walk.identity.key
        for before, after in zip_longest(files, files[1:]):
            stop = after.base if after else synced
            if before.limit < stop:
                capacity = stop - before.limit if after else max(stop - before.limit, before.capacity)
                seed = record.seed(key, before.limit)
                self._create(
                    Segment(
                        before.number + 1, before.limit, capacity, before.created_ms, seed, self._features()
                    ),
                    None,
                )
                reason = "a segment is missing; created"
                return [Loss(paths.segment(self._log, before.limit), 0, 0, (), reason, "")]
        if not files and synced:
            # Nothing is left.  Positions go on behind what there was: they are never issued twice.
            each = Segment(0, synced, record.FENCE_BYTES, 0, record.seed(key, synced))
            self._create(each, self._fence(each, synced, synced))
            reason = "all segments are missing; an empty one was created"
            return [Loss(self._log, 0, synced, (), reason, "")]
        return []

    def _create(self, each: Segment, fence: bytes | None) -> None:
        path = paths.segment(self._log, each.base)
        self._write(path, segment.encode_header(self._walk.identity, each) + (fence or b""), 0, create=True)
        self._disk.sync_directory(self._log)

    # ── records ────────────────────────────────────────────────────────────────────

    def _mend_records(self) -> list[Loss]:
        """Put LOST records over what is damaged, and write damaged fences again."""
        losses: list[Loss] = []
        end = -1  # of the records of the segment before
        self._walk.rest(self._places)
        for file in self._walk.files:
            if file.segment.limit <= self._walk.head:
                continue
            place = self._places.at(file.segment)
            end_here = place.end
            for gap, ms in place.gaps:
                ids = suspects(self._disk, file.segment, gap, self._name)
                copy = self._quarantine.save(file.path, file.segment.name, gap.offset, gap.size)
                rest = gap
                if gap.lsn == file.segment.base:
                    self._write_fence(file, end if end >= 0 else file.segment.base, self._walk.head)
                    size = max(0, gap.size - record.FENCE_BYTES)
                    rest = gap._replace(lsn=gap.lsn + record.FENCE_BYTES, size=size)
                end_here = max(end_here, self._put_lost(file, rest.lsn, rest.lsn + rest.size, ms))
                what = gap.reason if rest.size else "the segment's fence, damaged; written again"
                losses.append(Loss(file.path, gap.offset, gap.size, ids, what, copy))
            if place.torn:
                break
            end = end_here
        return losses

    def _put_lost(self, file: File, start: int, stop: int, ms: int) -> int:
        """Cover [start, stop) with LOST records, of the time *ms*; where the last one ends."""
        while start < stop:
            size = stop - start
            if size > LOST_BYTES_MAX:
                size = LOST_BYTES_MAX if size >= LOST_BYTES_MAX + record.HEADER_BYTES else LOST_BYTES_MAX // 2
            size = max(size, record.HEADER_BYTES)
            self._put_one_lost(file, start, size - record.HEADER_BYTES, ms)
            start += size
        return start

    def _put_one_lost(self, file: File, lsn: int, length: int, ms: int) -> None:
        each = file.segment
        head = record.encode_header(length, lsn, lsn - record.CLAIMS_NOTHING, ms, record.LOST, 0, 0)
        self._part(file.path)
        fd = self._disk.open(file.path, write=True)
        try:
            offset = each.offset(lsn)
            stop = offset + record.HEADER_BYTES + length
            if self._disk.size(fd) < stop:
                write_all(self._disk, fd, b"\0", stop - 1)
            crc = crc32c(head, each.seed)
            for at in range(offset + record.HEADER_BYTES, stop, COPY_BYTES):
                crc = crc32c(self._disk.pread(fd, min(COPY_BYTES, stop - at), at), crc)
            write_all(self._disk, fd, record.CRC.pack(crc) + head, offset)
            sync_or_drop(self._disk, fd)
        finally:
            self._disk.close(fd)

    def _write_fence(self, file: File, void_from: int, head: int) -> None:
        self._write(file.path, self._fence(file.segment, void_from, head), segment.HEADER_BYTES)

    def _fence(self, each: Segment, void_from: int, head: int) -> bytes:
        epoch = segment.epoch_of([file.segment for file in self._walk.files])
        fence = record.Fence(void_from, head, each.capacity, each.created_ms, epoch)
        return fence.encode(each.seed, each.base, each.base - record.CLAIMS_NOTHING)

    def _mend_head(self) -> list[Loss]:
        """Let the first fence say that the log begins with it."""
        files = self._walk.files
        if not files or files[0].segment.base <= self._walk.head:
            return []
        first, head = files[0].segment, self._walk.head
        mark = shared.read_mark(self._disk, paths.mark(self._path), self._walk.identity.key)
        self._quarantine.save(files[0].path, first.name, segment.HEADER_BYTES, record.FENCE_BYTES)
        self._write_fence(files[0], first.base, first.base)
        path = paths.segment(self._log, head)
        if mark[shared.HEAD] == first.base:
            return [Loss(path, 0, 0, (), "given back, but the record that said so is lost; said again", "")]
        reason = "missing: lost, or given back and the record that said so is lost"
        return [Loss(path, 0, first.base - head, (), reason, "")]

    # ── writing ────────────────────────────────────────────────────────────────────

    def _part(self, path: str) -> None:
        """What is written in place may be another store's file, too."""
        copies.part(self._disk, path, paths.segment_aside(self._log))

    def _write(self, path: str, data: bytes, offset: int, *, create: bool = False) -> None:
        self._part(path)
        fd = self._disk.open(path, write=True, create=create)
        try:
            write_all(self._disk, fd, data, offset)
            sync_or_drop(self._disk, fd)
        finally:
            self._disk.close(fd)
