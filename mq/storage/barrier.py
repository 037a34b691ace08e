"""A barrier for all processors, asked for by one process: membarrier(2), which is Linux's.

    this process                                 another one, which has said `heed`
    ──────────────────────────────────────────   ─────────────────────────────────────────────────
    stores a word of the page                    stores a word of the page
    barrier()                                    loads the other's word
    loads the other's word

A processor keeps what it stores to itself for a moment, and may load meanwhile.  Without a
barrier on either side both could miss what the other one stored.  With this one the process on
the right needs none of its own: either its word is seen here, or it sees the word that was
stored here.  What it stored before a word that is seen here is seen, too, behind another barrier.

The kernel interrupts the processors that run a process which said `heed`, some microseconds in
all, and no others.  A process that sleeps has passed a barrier already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

try:
    import ctypes  # here, and not when it is used: a program may have changed its root by then
except ImportError:  # an interpreter that was built without it
    HAVE_CTYPES = False
else:
    HAVE_CTYPES = True

# The number of the call, by machine; a 32-bit program has other ones.
NUMBERS: Final = {"x86_64": 324, "aarch64": 283}
GLOBAL_EXPEDITED: Final = 1 << 1
REGISTER_GLOBAL_EXPEDITED: Final = 1 << 2


def heed() -> bool:
    """Have this process take part in the barriers of others; whether there are any here."""
    return _call(REGISTER_GLOBAL_EXPEDITED)


def barrier() -> bool:
    """A barrier for all processors on which a process runs that heeds them; False if there is none here."""
    return _call(GLOBAL_EXPEDITED)


def _call(command: int) -> bool:
    return _membarrier is not None and _membarrier(command) == 0


def _find() -> Callable[[int], int] | None:
    if not HAVE_CTYPES or sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    number = NUMBERS.get(os.uname().machine)
    if number is None:
        return None
    try:
        syscall = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):  # a C library without it
        return None
    syscall.restype = ctypes.c_long
    return lambda command: int(syscall(number, command, 0, 0))


_membarrier: Final = _find()
