"""Bytes that may only be in memory, written again.

After a failed fsync the kernel keeps pages that the disk never got, and takes them for
clean: a second fsync has nothing to do, and says that all is well.  So whoever goes on
after one, in recovery or when a process died inside its fsync, first writes again what
nobody has confirmed.

Writing over such a page is not enough.  ext4 remembers with the page that its block was
written; a block that was only reserved then gets the bytes and stays marked as reserved,
and is read as zeros after the next mount.  So the page goes first:

    read ──► forget ──► write ──► sync            docs/decisions/0010
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from .disk import Disk, read_all, write_all
from .segment import Segment

# The kernel keeps neighbouring pages as one, of up to so many bytes, and forgets it only as a whole.
FOLIO_BYTES: Final = 2 << 20


def rewrite(disk: Disk, directory: str, segments: Iterable[Segment], start: int, stop: int) -> None:
    """Write [*start*, *stop*) again in place, and sync it, oldest segment first.

    Others may append behind *stop* meanwhile.
    """
    for each in segments:
        first, last = max(each.base, start), min(each.limit, stop)
        if first < last:
            fd = disk.open(os.path.join(directory, each.name), write=True)
            try:
                _write_again(disk, fd, each.offset(first), each.offset(last))
                disk.sync(fd)
            finally:
                disk.close(fd)


def _write_again(disk: Disk, fd: int, start: int, stop: int) -> None:
    """The bytes at offsets [*start*, *stop*), as they are read; up to where the file ends."""
    for folio in range(start - start % FOLIO_BYTES, stop, FOLIO_BYTES):
        first, last = max(start, folio), min(stop, folio + FOLIO_BYTES)
        data = read_all(disk, fd, last - first, first)
        if not data:
            return
        disk.forget(fd, folio, FOLIO_BYTES)
        write_all(disk, fd, data, first)
