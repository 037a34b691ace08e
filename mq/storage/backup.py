"""A copy of a store that is one at every moment, made while processes write to the store.

    cut       in a turn: the segments there are, and where the log ends; then that is synced
    copy      what the copy lacks of them, each segment aside and then renamed, oldest first
    results   what task libraries have stored by then: later than the log, so no acked task lacks its result
    FORMAT    last: without it the directory is no store.  A copy that is there has it already

Segments only grow, at their end: so a copy that was made before is a beginning of the same log, and
gets only what is new.  If it is cut off half-way, it is a longer beginning.  If the cleaner unlinks
a segment before it is copied, what lived in there stands further behind: the log is cut again.

If the store has given back all that the copy has, a log has to take the place of another: it is made
beside it, and FORMAT is away while they change places.

The copy has no page.  So opening it recovers it, and gives it an epoch of its own, as with all copies
(copies.py).  A process that has opened it has made a page: then it may hold messages of its own, and is
not written to any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from mq.errors import StorageError

from . import identity as identities
from . import locks, paths, results
from .disk import Disk, close_all, read_all, write_all
from .identity import Identity
from .segment import HEADER_BYTES, Segment, encode_header, identity_in

BLOCK_BYTES: Final = 1 << 20
COMPARED_BYTES: Final = 4096  # at the end of a segment that is there whole: is it of the same history?
ANOTHER: Final = "choose an empty or a new directory"

Shown = Callable[[int, int], object]  # bytes that are copied, of how many


class Cut(NamedTuple):
    """A log at one moment.  All of it is on the disk."""

    identity: Identity
    segments: list[Segment]
    end: int


class Gone(Exception):
    """The segment at *base* is not there any more."""

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self.base = base


def copy(source: Disk, store: str, cut: Cut, target: Disk, path: str, show: Shown) -> None:
    """Make the store at *path* what *cut* is.  Raises Gone if a segment went meanwhile: cut again.

    Raises StorageError if something else is there, and StoreLocked if a process has that open.
    """
    _prepare(target, store, path, lambda: _require_same(target, path, cut))
    with locks.alone(target, path):
        target.resemble(paths.format_file(store))
        _require_same(target, path, cut)
        _Copying(source, store, target, path, show).copy(cut)
        results.copy(source, store, target, path)
        if not target.exists(paths.format_file(path)):
            _write_format(target, path, cut.identity)


def clone(source: Disk, store: str, cut: Cut, target: Disk, path: str, show: Shown) -> str:
    """The same, for a store of its own in a new or empty directory: its id."""
    _prepare(target, store, path, lambda: _require_empty(target, path))
    with locks.alone(target, path):
        target.resemble(paths.format_file(store))
        _require_empty(target, path)
        # The key stays, for it is in every checksum.
        own = identities.new(cut.identity.key)
        _Copying(source, store, target, path, show, own).copy(cut)
        results.copy(source, store, target, path)
        _write_format(target, path, own)
        return own.store_id


def _prepare(target: Disk, store: str, path: str, require: Callable[[], object]) -> None:
    """Make the directory.  Where it must not be written, nothing is: not even a lock."""
    if target.exists(path):
        require()
    else:
        target.resemble(paths.format_file(store))
        target.make_directory(path)


def _write_format(target: Disk, path: str, identity: Identity) -> None:
    identities.sync_names_above(target, path)
    identities.write(target, paths.format_file(path), identity)


def _require_empty(disk: Disk, path: str) -> None:
    paths.require_room(disk, path)
    log = paths.log(path)
    there = any(map(disk.exists, (paths.format_file(path), paths.results(path))))
    if there or (disk.exists(log) and paths.segment_bases(disk.names(log))):
        raise StorageError(path, f"a store is there, or a part of one: {ANOTHER}")


def _require_same(disk: Disk, path: str, cut: Cut) -> None:
    """What is there must be a copy of the same store, or a part of one, or nothing."""
    if disk.exists(paths.mark(path)):
        raise StorageError(
            path, f"a store is there that was opened, and may hold messages of its own: {ANOTHER}"
        )
    if disk.exists(paths.format_file(path)):
        found: set[Identity | None] = {identities.read(disk, paths.format_file(path))}
    else:
        paths.require_room(disk, path)
        log = paths.log(path)
        there = paths.segment_bases(disk.names(log)) if disk.exists(log) else []
        found = {identity_in(_part(disk, paths.segment(log, base), 0, HEADER_BYTES)) for base in there}
    if found - {cut.identity}:
        raise StorageError(path, f"a copy of another store is there: {ANOTHER}")


class _Copying:
    def __init__(
        self, source: Disk, store: str, target: Disk, path: str, show: Shown, own: Identity | None = None
    ) -> None:
        """*own*: the copy's identity, if it is not the store's."""
        self._source, self._target, self._show, self._own = source, target, show, own
        self._path, self._from, self._to = path, paths.log(store), paths.log(path)
        self._checkpoints = paths.checkpoints(store), paths.checkpoints(path)
        self._done = self._total = 0

    def copy(self, cut: Cut) -> None:
        target = self._target
        there = paths.segment_bases(target.names(self._to)) if target.exists(self._to) else []
        if there and there[-1] > cut.segments[-1].base:
            raise self._differs(there[-1])
        apart = bool(there) and cut.segments[0].base > self._end(there[-1])
        if apart:
            self._to, there = paths.aside(self._to), []
        self._remove(paths.aside(paths.log(self._path)))
        for directory in (self._to, self._checkpoints[1]):
            target.make_directory(directory)
        lacking = self._lacking(cut, there)
        self._total = sum(stop for _, stop in lacking)
        for each, stop in lacking:
            self._copy_segment(each, stop)
            target.sync_directory(self._to)  # a log has no gaps: none stays without the one before
        if apart:
            self._change_places()
        self._copy_checkpoints(cut.end)
        for base in there:
            if base < cut.segments[0].base:
                target.unlink(paths.segment(self._to, base))
                target.sync_directory(self._to)  # as above: the oldest goes first
        for directory in (self._to, self._checkpoints[1], self._path):
            target.sync_directory(directory)
        self._show(self._total, self._total)

    # ── a log in the place of another ──────────────────────────────────────────────

    def _end(self, base: int) -> int:
        """Up to where the copy has the segment."""
        return base + _size(self._target, paths.segment(self._to, base)) - HEADER_BYTES

    def _change_places(self) -> None:
        """The log that was made aside is the log.  Until FORMAT is there again, the directory is no store."""
        target, aside = self._target, self._to
        self._to = paths.log(self._path)
        if target.exists(paths.format_file(self._path)):
            target.unlink(paths.format_file(self._path))
            target.sync_directory(self._path)
        self._remove(self._to)
        for name in target.names(aside):
            target.rename(os.path.join(aside, name), os.path.join(self._to, name))

    def _remove(self, directory: str) -> None:
        if self._target.exists(directory):
            for name in self._target.names(directory):
                self._target.unlink(os.path.join(directory, name))

    # ── segments ───────────────────────────────────────────────────────────────────

    def _lacking(self, cut: Cut, there: list[int]) -> list[tuple[Segment, int]]:
        """Which segments the copy does not have whole, and how long their files are."""
        found = []
        for each in cut.segments:
            size = min(self._size(each), each.offset(min(cut.end, each.limit)))
            if each.base not in there or self._compare(each) < size:
                found.append((each, size))
        return found

    def _size(self, each: Segment) -> int:
        with self._there(each) as fd:
            return self._source.size(fd)

    def _compare(self, each: Segment) -> int:
        """How much of a segment the copy has; StorageError if it does not end as the store's does there."""
        copied = paths.segment(self._to, each.base)
        size = _size(self._target, copied)
        at = max(HEADER_BYTES, size - COMPARED_BYTES)
        with self._there(each) as fd:
            if _part(self._target, copied, at, size) != read_all(self._source, fd, size - at, at):
                raise self._differs(each.base)
        return size

    def _differs(self, base: int) -> StorageError:
        return StorageError(
            paths.segment(self._to, base),
            "it holds what the store does not: the store was restored from an older backup since, or one of"
            f" the two is damaged (`mq verify` says which); nothing was written over: {ANOTHER}",
        )

    @contextmanager
    def _there(self, each: Segment) -> Iterator[int]:
        """A descriptor of the store's segment; Gone if there is none."""
        try:
            fd = self._source.open(paths.segment(self._from, each.base))
        except FileNotFoundError:
            raise Gone(each.base) from None
        try:
            yield fd
        finally:
            self._source.close(fd)

    def _copy_segment(self, each: Segment, stop: int) -> None:
        head = encode_header(self._own, each) if self._own else b""
        final = paths.segment(self._to, each.base)
        before = self._target.open(final) if self._target.exists(final) else -1
        try:
            with self._there(each) as fd:
                self._copy_file(fd, paths.segment_aside(self._to), final, stop, head, before)
        finally:
            close_all(self._target, [before])

    def _copy_file(
        self, fd: int, aside: str, final: str, stop: int, head: bytes = b"", before: int = -1
    ) -> None:
        """The first *stop* bytes of the file, which begins with *head* instead, whole under its name.

        *before*: a descriptor of the copy that there is.  What that has must be the same.
        """
        target = self._target
        if target.exists(aside):
            target.unlink(aside)
        new = target.open(aside, write=True, create=True)
        try:
            self._copy_blocks(fd, new, stop, head, before, final)
            target.sync(new)
        finally:
            target.close(new)
        target.rename(aside, final)

    def _copy_blocks(self, fd: int, new: int, stop: int, head: bytes, before: int, final: str) -> None:
        at = 0
        while at < stop and (block := read_all(self._source, fd, min(BLOCK_BYTES, stop - at), at)):
            old = read_all(self._target, before, len(block), at) if before >= 0 else b""
            if not block.startswith(old):
                raise self._differs(paths.base_of(os.path.basename(final)) or 0)
            write_all(self._target, new, head + block[len(head) :] if at == 0 else block, at)
            at += len(block)
            self._done += len(block)
            self._show(self._done, max(self._total, self._done))

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def _copy_checkpoints(self, end: int) -> None:
        """Opening is quick with one.  Another process may remove one meanwhile: it takes longer without."""
        source, target = self._checkpoints
        if not self._source.exists(source):
            return
        kept = {name for name in self._source.names(source) if _position(name) <= end}
        for name in sorted(kept - set(self._target.names(target))):
            final = os.path.join(target, name)
            with suppress(FileNotFoundError):
                self._copy_checkpoint(os.path.join(source, name), final)
        for name in set(self._target.names(target)) - kept:
            self._target.unlink(os.path.join(target, name))

    def _copy_checkpoint(self, path: str, final: str) -> None:
        fd = self._source.open(path)
        try:
            self._copy_file(fd, paths.aside(final), final, self._source.size(fd))
        finally:
            self._source.close(fd)


def _position(name: str) -> float:
    match = paths.CHECKPOINT_FILE.fullmatch(name)
    return int(match[1]) if match else float("inf")


def _size(disk: Disk, path: str) -> int:
    fd = disk.open(path)
    try:
        return disk.size(fd)
    finally:
        disk.close(fd)


def _part(disk: Disk, path: str, start: int, stop: int) -> bytes:
    fd = disk.open(path)
    try:
        return read_all(disk, fd, stop - start, start)
    finally:
        disk.close(fd)
