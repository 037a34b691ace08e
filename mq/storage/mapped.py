"""The end of the last segment, as this process has it mapped.

        first                end            ready              limit
    ──────┼──── records ──────┼───────────────┼──────────────────┤ what is reserved
          │       read here   │  copied here  │  made ready when it is first needed

There is one at a time.  It is closed when the log goes on in another segment, when it has no
room, when its pages cannot be had, in a child of a fork, and with the log; then what is
appended is written, and what is read is read, by calls of the system.

Only threads with the log's turn change it or copy to it.  Any thread reads, and may find it
closed in between: that is a ValueError, after which it reads the file.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from .disk import Disk
from .segment import HEADER_BYTES, Segment
from .window import Window

STEP_BYTES: Final = 64 << 10  # made ready at once
COPY_BYTES_MAX: Final = 4096  # of what is longer no page is made ready for a copy: writing it takes less time
GRANULE_BYTES: Final = 64 << 10  # where a mapping may begin: pages are not larger anywhere
NOWHERE: Final = 1 << 64  # behind every position


class Mapped:
    """Its positions are those of the log.  What is not in [first, limit) is not mapped."""

    __slots__ = ("first", "limit", "ready", "segment", "window")

    def __init__(self, window: Window, first: int, limit: int, segment: Segment | None = None) -> None:
        """*segment*: which one it is a part of."""
        self.window, self.first, self.limit, self.segment = window, first, limit, segment
        self.ready = 0  # what ends before here may be copied

    def reach(self, start: int, end: int) -> bool:
        """Whether a record at [*start*, *end*), behind all others, may be copied.

        If its pages cannot be had, the window is closed: the write that is tried then says why.
        """
        if end > self.limit or end - start > COPY_BYTES_MAX:
            return False
        begin = max(start, self.ready)
        stop = min(begin + STEP_BYTES, self.limit)
        try:
            is_ready = self.window.ready(begin - self.first, stop - begin)
        except ValueError:  # this is the child of a fork, which the handler of a signal made in here
            is_ready = False
        if is_ready:
            self.ready = stop
        else:
            self.close()
        return is_ready

    def read(self, start: int, stop: int) -> bytes:
        """What the log has there; nothing, if that is not all mapped."""
        if self.first <= start and stop <= self.limit:
            with suppress(ValueError):  # closed meanwhile
                return self.window[start - self.first : stop - self.first]
        return b""

    def close(self) -> None:
        self.ready = self.limit = 0
        self.first = NOWHERE
        self.window.close()


class _Closed:
    """A window that never was."""

    def __getitem__(self, part: slice, /) -> bytes:
        raise ValueError("no window is open")

    def __setitem__(self, part: slice, data: bytes, /) -> None:
        raise ValueError("no window is open")

    def ready(self, start: int, size: int) -> bool:
        return False

    def close(self) -> None:
        pass


def unmapped() -> Mapped:
    return Mapped(_Closed(), NOWHERE, 0)


def map_end(disk: Disk, fd: int, last: Segment, end: int, limit: int) -> Mapped | None:
    """Of a log that ends at *end* in *last*, which *fd* is of, and has room up to *limit*; None if it
    cannot be mapped."""
    offset = last.offset(end)
    offset -= offset % GRANULE_BYTES
    window = disk.window(fd, offset, last.offset(limit) - offset)
    if window is None:
        return None
    return Mapped(window, last.base + offset - HEADER_BYTES, limit, last)
