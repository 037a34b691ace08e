"""When a file was made, or anything as good: what tells it from a later file with its inode number.

    generation   of the inode, by ioctl: ext4, xfs, btrfs, f2fs and others.  A file system
                 counts it up, or draws it, each time it gives the number to a new file
    birth time   by statx, where there is no generation: tmpfs, overlayfs.  Python has no
                 statx on Linux yet, so it takes ctypes, which takes milliseconds to import
    st_birthtime macOS, FreeBSD

No tool that copies files can set any of them.  A copy of a whole file system has them all.
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from typing import Final

with suppress(ImportError):  # Windows; said when a store is opened
    import fcntl

GENERATION: Final = 2 << 30 | struct.calcsize("l") << 16 | ord("v") << 8 | 1  # FS_IOC_GETVERSION
EMPTY_PATH: Final = 0x1000  # AT_EMPTY_PATH: the descriptor itself
BIRTH: Final = 0x800  # STATX_BTIME
STATX_BYTES: Final = 256
BIRTH_AT: Final = 80  # in struct statx: seconds i64, nanoseconds u32
WORD: Final = 1 << 64


def made(fd: int) -> int:
    """A number of 64 bits; 0 if the system says nothing."""
    if sys.platform == "linux":
        return _generation(fd) or _birth_ns(fd)
    found = os.fstat(fd)
    return int(getattr(found, "st_birthtime", 0) * 1_000_000_000) % WORD


def _generation(fd: int) -> int:
    room = bytearray(struct.calcsize("l"))  # the kernel writes an int, but is asked for a long
    with suppress(OSError):
        fcntl.ioctl(fd, GENERATION, room)
    return int.from_bytes(room[:4], sys.byteorder)


def _birth_ns(fd: int) -> int:
    try:
        from ctypes import CDLL, create_string_buffer

        statx = CDLL(None).statx
    except (ImportError, AttributeError, OSError):  # a C library without it, or a changed root
        return 0
    room = create_string_buffer(STATX_BYTES)
    if statx(fd, b"", EMPTY_PATH, BIRTH, room) or not int.from_bytes(room.raw[:4], sys.byteorder) & BIRTH:
        return 0
    seconds, ns = struct.unpack_from("=qI", room.raw, BIRTH_AT)
    return int(seconds * 1_000_000_000 + ns) % WORD
