"""faults.c, built and put before the C library of a nursery's children."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

KILL, SHORT, CUT = -1, -2, -3
CALLS = ("pwrite", "fdatasync", "fsync", "posix_fallocate", "open", "unlink", "rename")


def build(directory: Path) -> str:
    """The path of the library, for LD_PRELOAD."""
    library = directory / "faults.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", library, Path(__file__).with_name("faults.c"), "-ldl"],
        check=True,
    )
    return os.fspath(library)


def arm(call: str, where: str, first: int, count: int, what: int) -> None:
    """In a child: *count* such calls from the *first* on meet *what*: an errno, KILL, SHORT or CUT."""
    ctypes.CDLL(None).mq_fault(
        call.encode(), where.encode(), ctypes.c_long(first), ctypes.c_long(count), ctypes.c_int(what)
    )


def disarm() -> None:
    arm("*", "", 0, 0, 0)


def seen() -> int:
    mq_seen = ctypes.CDLL(None).mq_seen
    mq_seen.restype = ctypes.c_long
    return int(mq_seen())


def name(what: int) -> str:
    return {KILL: "KILL", SHORT: "SHORT", CUT: "CUT"}.get(what) or errno.errorcode[what]
