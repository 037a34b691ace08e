"""Room of a file that is mapped: a copy into it is a write that asks the system for nothing.

    window[start:stop] = data      the file has it, and every process that reads it
    window[start:stop]             what the file has there, by any process

A failing disk shows in another way here.  A write that fails returns an errno; a store to a
page that the file system cannot give raises SIGBUS, which ends the process as SIGKILL does.  So
only room that was reserved is mapped, and before its first use `ready` asks for its pages: what
would be a SIGBUS later is an answer then.

    file system      mapped   why
    ───────────────  ───────  ────────────────────────────────────────────────────────────────
    ext2, ext3, ext4   yes    what is reserved is there: they write in place (one driver has all three)
    xfs                yes    the same; a file that shares blocks with a copy is refused by `ready`
    tmpfs              yes    what is reserved is memory that is taken
    btrfs, zfs, f2fs   no     they write elsewhere, so what is reserved may still find no room
    overlay            no     what is below may be one of those
    all others         no     not tried

A process whose file is cut short under it, or whose file system is shut down, is ended by SIGBUS.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections import deque
from itertools import repeat
from typing import Final, Protocol

MAPPED: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE of Linux 5.14, for which Python has no name


class Window(Protocol):
    """A part of a file.  Offsets are from its beginning; what is read behind its end is not there.

    One that is closed raises ValueError, for reading and for writing.
    """

    def __getitem__(self, part: slice, /) -> bytes: ...
    def __setitem__(self, part: slice, data: bytes, /) -> None: ...
    def ready(self, start: int, size: int) -> bool:
        """Whether a copy to this part will find its room; ValueError if it is closed."""

    def close(self) -> None:
        """Unmap it; nothing, if it is closed."""


def is_mapped(kind: str) -> bool:
    """Whether files on a file system of this *kind* may be mapped and written to."""
    return kind in MAPPED


never_unmapped: list[FileWindow] = []
"""A mapping keeps a descriptor of its own.  These stay mapped, for it is another file's by now."""


class FileWindow(mmap.mmap):
    """Loads and stores are those of mmap, in C: no other thread, and no signal, comes in between."""

    descriptor = -1  # which the mapping keeps; -1: none, or not known
    inode: tuple[int, int] | None = None  # whose it is

    def ready(self, start: int, size: int) -> bool:
        before = start % mmap.PAGESIZE
        try:
            self.madvise(POPULATE_WRITE, start - before, size + before)
        except OSError as error:
            if error.errno is None:  # a signal handler's TimeoutError
                raise
            return error.errno == errno.EINVAL  # an older kernel: the room was reserved, and that must do
        return True

    def close(self) -> None:
        if self.descriptor >= 0 and _inode(self.descriptor) != self.inode:
            never_unmapped.append(self)
        else:
            self.descriptor = -1
            super().close()


def map_file(fd: int, offset: int, size: int) -> FileWindow:
    """Map a part of the file, which is as long at least; OSError if it cannot be."""
    if sys.version_info >= (3, 13):
        return FileWindow(fd, size, offset=offset, trackfd=False)
    number, inode = _next_number(fd), _inode(fd)
    window = FileWindow(fd, size, offset=offset)
    if _inode(number) == inode:  # else another thread has got that number
        window.descriptor, window.inode = number, inode
    return window


def _next_number(fd: int) -> int:
    """Which number the next descriptor gets."""
    made: list[int] = []
    try:
        made.extend(map(os.dup, (fd,)))
        return made[-1]
    finally:  # each is made, and closed, in one call of C: an exception out of a handler leaves none open
        deque(map(os.close, map(made.pop, repeat(-1, len(made)))), maxlen=0)


def _inode(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
