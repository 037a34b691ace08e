"""A record that is too long to be held: its checksum is taken piece by piece, and its edges are kept.

    ┌────────┬──────┬─┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄─┬──────┐
    │ header │ edge │  not held       │ edge │
    └────────┴──────┴─┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄─┴──────┘

The edges hold all that is asked for but the body itself: what precedes it, and what was said
beside it.  A caller that asks for more gets it: then the whole record is read again, and checked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from . import record
from .crc import crc32c
from .disk import Disk, read_all
from .record import CRC_FROM

PIECE_BYTES: Final = 256 << 10
EDGE_BYTES: Final = 80 << 10  # more than headers, and what else a publish says, take


class Far:
    """A payload that is sliced as bytes are, while the file is open."""

    __slots__ = ("_head", "_length", "_read", "_tail")

    def __init__(self, length: int, head: bytes, tail: bytes, read: Callable[[], bytes]) -> None:
        self._length, self._head, self._tail, self._read = length, head, tail, read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(self._length)
        behind = start - self._length + len(self._tail)
        if stop <= len(self._head):
            return self._head[start:stop]
        if behind >= 0:
            return self._tail[behind : behind + max(0, stop - start)]
        return self._read()[start:stop]


def read_far(disk: Disk, fd: int, offset: int, seed: int) -> Far | None:
    """The payload of the record at *offset* in the file; None if it does not pass its checksum."""
    header = record.parse(disk.pread(fd, record.HEADER_BYTES, offset))
    if header is None:
        return None
    begin, end = offset + CRC_FROM, offset + header.size
    skipped = record.HEADER_BYTES - CRC_FROM
    found, at = seed, begin
    first = before = last = b""
    while at < end:
        piece = disk.pread(fd, min(PIECE_BYTES, end - at), at)
        if not piece:
            return None
        found = crc32c(piece, found)
        if len(first) < skipped + EDGE_BYTES:
            first += piece[: skipped + EDGE_BYTES - len(first)]
        before, last = last, piece
        at += len(piece)
    if found != header.crc:
        return None
    tail = (before + last)[-min(EDGE_BYTES, header.length) :] if header.length else b""

    def read() -> bytes:
        data = read_all(disk, fd, end - begin, begin)
        if len(data) < end - begin or crc32c(data, seed) != header.crc:
            raise OSError(errno.EIO, os.strerror(errno.EIO))  # it was there a moment ago
        return data[skipped:]

    return Far(header.length, first[skipped:], tail, read)
