"""A store that was copied file by file, while it was in use: how it becomes a store of its own.

    cp, tar, rsync, …     copy one file after the other.  The page comes before or after the log,
                          and so does a checkpoint: what they say was on the disk means nothing here
    cp -al, snapshots     that are links give the same files second names.  Two stores would lock
      with rsync          one LOCK and write one log: so the copy gets files of its own first
    a snapshot of the     is what the disk had at one moment: no copy, but what a power cut leaves
      file system

The page tells: it says which file it was made as, and in which directory (`shared.origin_of`).
No process has a copy open: it gets a page of its own here, before anything else is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from mq.errors import CorruptStore

from . import paths, shared
from .disk import Disk, lock_within, read_all, write_all, write_file
from .segment import Segment

TAKE_OVER_SECONDS: Final = 1.0  # for another process that does so, or looks whether the store is open
COPY_BYTES: Final = 1 << 20
EPOCH_MAX: Final = 0xFFFF
COPY_AGAIN: Final = (
    "this is a copy, and may lack what was given back while it was made: if so, copy again; else"
)


def take_over(disk: Disk, path: str, directory: int) -> None:
    """If the store at *path* is a copy, give it files of its own; *directory* is a descriptor of it.

    The page goes last: until then the store is a copy, and this is done again.
    """
    mark = paths.mark(path)
    if shared.copied_key(disk, mark) is None:
        return
    if not lock_within(disk, directory, TAKE_OVER_SECONDS):
        return  # the page was put there while a process has the store open
    try:
        if (key := shared.copied_key(disk, mark)) is not None:  # another process was not quicker
            _part(disk, path)
            disk.close(shared.make_mark(disk, mark, key, shared.COPIED))
            disk.sync_directory(path)
    finally:
        disk.unlocker(directory)()


def _part(disk: Disk, path: str) -> None:
    """Let go of the files that another store may have, too, and that are locked or written in place."""
    for file in (paths.lock(path), paths.cleaner(path), paths.reserve(path)):
        if disk.links(file) > 1:
            disk.unlink(file)
    part(disk, paths.format_file(path), paths.aside(paths.format_file(path)))
    bells = paths.bells(path)
    with suppress(FileNotFoundError):
        for name in disk.names(bells):
            disk.unlink(os.path.join(bells, name))


def part(disk: Disk, path: str, aside: str) -> None:
    """Put a copy of the file in its place, if it has another name elsewhere."""
    if disk.links(path) <= 1:
        return
    write_file(disk, aside, b"")
    source, target = disk.open(path), disk.open(aside, write=True)
    try:
        _copy(disk, source, target)
        disk.sync(target)
    finally:
        disk.close(source)
        disk.close(target)
    disk.rename(aside, path)
    disk.sync_directory(os.path.dirname(path))


def _copy(disk: Disk, source: int, target: int) -> None:
    at = 0
    while block := read_all(disk, source, COPY_BYTES, at):
        write_all(disk, target, block, at)
        at += len(block)


def explained(error: CorruptStore) -> CorruptStore:
    """The same damage, found in a copy: a segment that the cleaner unlinked meanwhile is no damage there."""
    return CorruptStore(error.path, f"{COPY_AGAIN}: {error.reason}", error.offset, error.ids)


def part_segments(disk: Disk, directory: str, segments: Iterable[Segment]) -> None:
    """The same for segments that are to be written to: the original may be appending to them."""
    for each in segments:
        part(disk, paths.segment(directory, each.base), paths.segment_aside(directory))


def another_epoch(last: int) -> int:
    """A number that tells what is given out from now on from what was before: not *last*, and not 0."""
    while (epoch := int.from_bytes(os.urandom(2), "little")) in (0, last):
        pass
    return epoch
