"""Bytes that may only be in memory, written again.

After a failed fsync the kernel keeps pages that the disk never got, and takes them for
clean: a second fsync has nothing to do, and reports success.  So recovery, and a process
that finds that another one died inside its fsync, first write again what no fsync has
confirmed.

Writing over such a page is not enough.  ext4 remembers with the page that its block was
written; a block that was only reserved then gets the bytes and stays marked as reserved,
and is read as zeros after the next mount.  Advice to drop the page first is not enough:
a page that another process has appended to since is written out in that same way, and
dropped with the other's bytes; a page that a process has mapped is not dropped.  So whole
pages are written past the page cache, and the kernel drops them itself:

    read from memory ──► write past the cache ──► sync ──► drop, read from the disk, compare

Only if the file system does not write past its cache, what is dirty is synced, then the
pages are dropped, then written.                                    docs/decisions/0031
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from . import paths
from .crc import crc32c
from .disk import PAGE_BYTES, Disk, read_all, write_all
from .explain import NO_ROOM, NOT_SUPPORTED
from .segment import Segment

# The kernel keeps neighbouring pages as one, of up to so many bytes, and drops it only as a whole.
# So all of that is read before any of it is written.
FOLIO_BYTES: Final = 2 << 20
# A file system that knows the flag may still refuse one write: the device's blocks are larger than
# our pages, or the last page, which may go beyond the end of the file, has no room.
REFUSED: Final = NOT_SUPPORTED | NO_ROOM


class Piece(NamedTuple):
    """What was written again of one folio."""

    offset: int
    size: int
    crc: int


def rewrite(disk: Disk, directory: str, segments: Iterable[Segment], start: int, stop: int) -> None:
    """Write [*start*, *stop*) again in place, sync it, and see that the disk has it; oldest segment first.

    *stop* is the end of the log, and no process may append meanwhile: of the last page all
    is written, as it was read, and what lies behind it is dropped from memory.
    """
    for each in segments:
        first, last = max(each.base, start), min(each.limit, stop)
        if first < last:
            path = paths.segment(directory, each.base)
            fd = disk.open(path, write=True)
            try:
                pieces = list(_write_again(disk, fd, each.offset(first), each.offset(last)))
                disk.sync(fd)
                if not all(_is_there(disk, fd, piece) for piece in pieces):
                    raise OSError(errno.EIO, "the disk does not hold what was just written to it", path)
            finally:
                disk.close(fd)


def _write_again(disk: Disk, fd: int, start: int, stop: int) -> Iterator[Piece]:
    """The pages with the bytes at offsets [*start*, *stop*), as they are read; up to where the file ends."""
    start -= start % PAGE_BYTES
    stop += -stop % PAGE_BYTES
    for folio in range(start - start % FOLIO_BYTES, stop, FOLIO_BYTES):
        first, last = max(start, folio), min(stop, folio + FOLIO_BYTES)
        data = read_all(disk, fd, last - first, first)
        if not data:
            return
        if not _write_past_cache(disk, fd, data, first):
            disk.sync(fd)  # a page that is dirty would stay
            disk.forget(fd, folio, FOLIO_BYTES)
            write_all(disk, fd, data, first)
        yield Piece(first, len(data), crc32c(data))


def _write_past_cache(disk: Disk, fd: int, data: bytes, offset: int) -> bool:
    """Whether the file system has taken it: it then has dropped the pages, and the disk has the bytes."""
    pages = data + bytes(-len(data) % PAGE_BYTES)
    done = 0
    try:
        while done < len(pages):
            wrote = disk.pwrite_direct(fd, pages[done:], offset + done)
            wrote -= wrote % PAGE_BYTES
            if not wrote:
                return False
            done += wrote
    except OSError as error:
        if error.errno in REFUSED:
            return False
        # The kernel may have dropped the pages before it failed.  The next recovery reads them again.
        write_all(disk, fd, data, offset)
        raise
    return True


def _is_there(disk: Disk, fd: int, piece: Piece) -> bool:
    """Whether the disk has what was written."""
    # All pages are clean now, so this advice is taken.
    disk.forget(fd, piece.offset - piece.offset % FOLIO_BYTES, FOLIO_BYTES)
    return crc32c(read_all(disk, fd, piece.size, piece.offset)) == piece.crc


def sync_or_drop(disk: Disk, fd: int) -> None:
    """Sync a file that was written to in place; if that fails, let it be read as the disk has it.

    Else the next repair would take what this one has written for mended, and the disk does not have it.
    """
    try:
        disk.sync(fd)
    except OSError:
        disk.forget(fd, 0, disk.size(fd) + FOLIO_BYTES)
        raise
