"""The messages whose bodies may be gone with damaged bytes, as far as these still say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from . import record
from .disk import Disk
from .look import Gap
from .segment import Segment

ONE_BIT_BYTES_MAX: Final = 64 << 10  # of a record for which it is worth while to look for a flipped bit
NAMED_BYTES: Final = 64  # what says which message it is stands before this

Name = Callable[[int, int, bytes], int | None]
"""(kind, position, payload) → the message whose body the record holds, if it holds one."""


def suspects(disk: Disk, each: Segment, gap: Gap, name: Name) -> tuple[int, ...]:
    """The messages whose bodies may be gone with *gap*, as far as the lengths in it can be followed."""
    fd = disk.open(gap.path)
    try:
        return tuple(dict.fromkeys(_suspects(disk, fd, each, gap, name)))
    finally:
        disk.close(fd)


def _suspects(disk: Disk, fd: int, each: Segment, gap: Gap, name: Name) -> Iterator[int]:
    lsn, stop = gap.lsn, gap.lsn + gap.size
    if gap.size <= ONE_BIT_BYTES_MAX:
        data = _undo_one_bit(disk.pread(fd, gap.size, gap.offset), each)
        if data and (header := record.parse(data)):
            found = name(header.kind, lsn, data[record.HEADER_BYTES :])
            if found is not None:
                yield found
            return
    while lsn + record.HEADER_BYTES <= stop:
        data = disk.pread(fd, min(stop - lsn, ONE_BIT_BYTES_MAX), each.offset(lsn))
        header = record.parse(data)
        if header is None or not any(header):
            return
        found = name(header.kind, lsn, data[record.HEADER_BYTES :])
        if header.low != lsn & record.LOW or lsn + header.size > stop:
            yield lsn if found is None else found  # whatever it was
            return
        if found is not None:
            yield found
        lsn += header.size


def _undo_one_bit(data: bytes, each: Segment) -> bytes | None:
    """The record that *data* was, if one bit near its beginning was flipped: the checksum says which.

    Only to tell which message it was.  Such a record is never shown as a message.
    """
    trial = bytearray(data)
    for at in range(record.CRC_FROM, min(len(data), NAMED_BYTES)):
        for bit in range(8):
            trial[at] ^= 1 << bit
            if record.passes(trial, each.seed):
                return bytes(trial)
            trial[at] ^= 1 << bit
    return None
