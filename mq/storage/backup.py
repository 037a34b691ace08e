"""A copy of a store that is one at every moment, made while processes write to the store.

    cut       under LOCK: the segments there are, and where the log ends; then that is synced
    copy      what the copy lacks of them, each segment aside and then renamed, oldest first
    FORMAT    last: without it the directory is no store.  A copy that is there has it already

Segments only grow, at their end: so a copy that was made before is a beginning of the same log, and
gets only what is new.  If it is cut off half-way, it is a longer beginning.  If the cleaner unlinks
a segment before it is copied, what lived in there stands further behind: the log is cut again.

The copy has no page.  So opening it recovers it, and gives it an epoch of its own, as with all copies
(copies.py).  A process that has opened it has made a page: then it may hold messages of its own, and is
not written to any more.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from mq.errors import CorruptStore, StorageError

from . import identity as identities
from . import locks, paths
from .disk import Disk, read_all, write_all
from .identity import Identity
from .segment import HEADER_BYTES, Segment, begun_at, encode_header

BLOCK_BYTES: Final = 1 << 20
COMPARED_BYTES: Final = 4096  # at the end of what a copy has of a segment: is it of the same history?
ANOTHER: Final = "choose an empty or a new directory"

Shown = Callable[[int, int], object]  # bytes that are copied, of how many


class Cut(NamedTuple):
    """A log at one moment.  All of it is on the disk."""

    identity: Identity
    segments: list[Segment]
    end: int


def cut_of_closed(disk: Disk, path: str) -> Cut:
    """The store at *path*, which no process has open, as it is in its files."""
    if locks.is_present(disk, path):
        raise locks.locked(disk, path, [paths.FORMAT, "", paths.LOCK])
    found = identities.read(disk, paths.format_file(path))
    directory = paths.log(path)
    segments = []
    for base in paths.segment_bases(disk.names(directory)):
        begun = begun_at(disk, found, paths.segment(directory, base), base)
        if begun is None:
            raise CorruptStore(paths.segment(directory, base), "it does not begin as a segment: `mq repair`")
        segments.append(begun[0])
    if not segments:
        raise CorruptStore(directory, "there is no log; restore another copy")
    return Cut(found, segments, segments[-1].limit)


def copy(source: Disk, store: str, cut: Cut, target: Disk, path: str, show: Shown) -> bool:
    """Make the store at *path* what *cut* is.  False if a segment went meanwhile: cut again.

    Raises StorageError if something else is there, and StoreLocked if a process has that open.
    """
    target.make_directory(path)
    with locks.alone(target, path):
        is_new = _require_room(target, path, cut.identity)
        done = _Copying(source, store, target, path, show).copy(cut)
        if done and is_new:
            identities.sync_names_above(target, path)
            identities.write(target, paths.format_file(path), cut.identity)
        return done


def clone(source: Disk, store: str, cut: Cut, target: Disk, path: str, show: Shown) -> str | None:
    """The same, for a store of its own in a new directory: its id; None if a segment went meanwhile."""
    target.make_directory(path)
    with locks.alone(target, path):
        if target.exists(paths.format_file(path)):
            raise StorageError(path, f"there is a store already: {ANOTHER}")
        paths.require_room(target, path)
        # The key stays, for it is in every checksum.
        own = Identity(uuid.uuid4().hex, cut.identity.key)
        if not _Copying(source, store, target, path, show, own).copy(cut):
            return None
        identities.sync_names_above(target, path)
        identities.write(target, paths.format_file(path), own)
        return own.store_id


def _require_room(disk: Disk, path: str, identity: Identity) -> bool:
    """Whether nothing is there; else what is there was copied from the same store."""
    if disk.exists(paths.mark(path)):
        raise StorageError(
            path, f"a store is there that was opened, and may hold messages of its own: {ANOTHER}"
        )
    if not disk.exists(paths.format_file(path)):
        paths.require_room(disk, path)
        return True
    if identities.read(disk, paths.format_file(path)) != identity:
        raise StorageError(path, f"a copy of another store is there: {ANOTHER}")
    return False


class _Copying:
    def __init__(
        self, source: Disk, store: str, target: Disk, path: str, show: Shown, own: Identity | None = None
    ) -> None:
        """*own*: the copy's identity, if it is not the store's."""
        self._source, self._target, self._show, self._own = source, target, show, own
        self._path, self._from, self._to = path, paths.log(store), paths.log(path)
        self._checkpoints = paths.checkpoints(store), paths.checkpoints(path)
        self._done = self._total = 0

    def copy(self, cut: Cut) -> bool:
        target = self._target
        for directory in (self._to, self._checkpoints[1]):
            target.make_directory(directory)
        try:
            lacking = self._lacking(cut)
            self._total = sum(stop for _, stop in lacking)
            for each, stop in lacking:
                self._copy_segment(each, stop)
                target.sync_directory(self._to)  # a log has no gaps: none stays without the one before
        except FileNotFoundError:
            return False
        self._copy_checkpoints(cut.end)
        for base in paths.segment_bases(target.names(self._to)):
            if base < cut.segments[0].base:
                target.unlink(paths.segment(self._to, base))
        for directory in (self._to, self._checkpoints[1], self._path):
            target.sync_directory(directory)
        self._show(self._total, self._total)
        return True

    # ── segments ───────────────────────────────────────────────────────────────────

    def _lacking(self, cut: Cut) -> list[tuple[Segment, int]]:
        """Which segments the copy does not have whole, and how long their files are."""
        there = paths.segment_bases(self._target.names(self._to))
        if there and there[-1] > cut.segments[-1].base:
            raise self._another_history(there[-1])
        found = []
        for each in cut.segments:
            path = paths.segment(self._from, each.base)
            size = min(_size(self._source, path), each.offset(min(cut.end, each.limit)))
            if each.base not in there or self._compare(each, path) < size:
                found.append((each, size))
        return found

    def _compare(self, each: Segment, path: str) -> int:
        """How much of a segment the copy has; StorageError if that is not how the segment begins."""
        copied = paths.segment(self._to, each.base)
        size = _size(self._target, copied)
        at = max(HEADER_BYTES, size - COMPARED_BYTES)
        if self._own is None and _part(self._target, copied, at, size) != _part(self._source, path, at, size):
            raise self._another_history(each.base)
        return size

    def _another_history(self, base: int) -> StorageError:
        return StorageError(
            paths.segment(self._to, base),
            "it holds what the store does not, which was perhaps restored from an older backup since:"
            f" {ANOTHER}",
        )

    def _copy_segment(self, each: Segment, stop: int) -> None:
        path = paths.segment(self._from, each.base)
        head = encode_header(self._own, each) if self._own else b""
        self._copy_file(path, paths.segment_aside(self._to), paths.segment(self._to, each.base), stop, head)

    def _copy_file(self, path: str, aside: str, final: str, stop: int, head: bytes = b"") -> None:
        """The first *stop* bytes of the file, that begins with *head* instead, whole under its name."""
        target = self._target
        if target.exists(aside):
            target.unlink(aside)
        fd = target.open(aside, write=True, create=True)
        try:
            for at, block in self._blocks(path, stop):
                write_all(target, fd, head + block[len(head) :] if at == 0 else block, at)
                self._done += len(block)
                self._show(self._done, max(self._total, self._done))
            target.sync(fd)
        finally:
            target.close(fd)
        target.rename(aside, final)

    def _blocks(self, path: str, stop: int) -> Iterator[tuple[int, bytes]]:
        fd = self._source.open(path)
        try:
            yield from self._read(fd, stop)
        finally:
            self._source.close(fd)

    def _read(self, fd: int, stop: int) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at < stop and (block := read_all(self._source, fd, min(BLOCK_BYTES, stop - at), at)):
            yield at, block
            at += len(block)

    # ── checkpoints ────────────────────────────────────────────────────────────────

    def _copy_checkpoints(self, end: int) -> None:
        """Opening is quick with one.  Another process may remove one meanwhile: it takes longer without."""
        source, target = self._checkpoints
        if not self._source.exists(source):
            return
        kept = {name for name in self._source.names(source) if _position(name) <= end}
        for name in sorted(kept - set(self._target.names(target))):
            path, final = os.path.join(source, name), os.path.join(target, name)
            with suppress(FileNotFoundError):
                self._copy_file(path, paths.aside(final), final, _size(self._source, path))
        for name in set(self._target.names(target)) - kept:
            self._target.unlink(os.path.join(target, name))


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
