"""Bytes that may only be in memory, written again.

After a failed fsync the kernel keeps pages that the disk never got, and takes them for
clean: a second fsync has nothing to do, and says that all is well.  So whoever goes on
after one, in recovery or when a process died inside its fsync, first writes again what
nobody has confirmed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from .disk import Disk, write_all
from .segment import Segment

COPY_BYTES: Final = 1 << 20


def rewrite(disk: Disk, directory: str, segments: Iterable[Segment], start: int, stop: int) -> None:
    """Write [*start*, *stop*) again in place, and sync it, oldest segment first."""
    for each in segments:
        first, last = max(each.base, start), min(each.limit, stop)
        if first < last:
            fd = disk.open(os.path.join(directory, each.name), write=True)
            try:
                for lsn in range(first, last, COPY_BYTES):
                    data = disk.pread(fd, min(COPY_BYTES, last - lsn), each.offset(lsn))
                    if not data:
                        break  # the file ends here; what is behind is void
                    write_all(disk, fd, data, each.offset(lsn))
                disk.sync(fd)
            finally:
                disk.close(fd)
