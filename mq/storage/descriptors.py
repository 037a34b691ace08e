"""The descriptors that one store has open: each has a number of its own, and is closed once.

A program may close a descriptor of the store, which is not its own.  The system then gives the number to
the next file that is opened.  So it is remembered which file each descriptor is of, and none that is of
another file by now is used or closed.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from operator import methodcaller
from typing import Final

from .disk import Inode

with suppress(ImportError):  # Windows; said when a store is opened
    import fcntl

LOWEST: Final = 3  # 0 to 2 are standard input, output and error, whatever this process did to them


class Descriptors:
    def __init__(self) -> None:
        self._inodes: dict[int, Inode] = {}  # by descriptor

    def open(self, name: str, flags: int, at: int | None, mode: int = 0o777) -> int:
        """A new descriptor, whose number is free for it; *name* in the directory *at*.

        The lowest ones are those of the standard streams.  And the program may have closed a descriptor of
        the store: if its number came back for another file of the store, nothing would tell the two apart.

        An exception out of a signal's handler leaves none open: each is made and noted in one call of C.
        """
        made: list[int] = []
        try:
            made.extend(map(partial(os.open, dir_fd=at), (name,), (flags,), (mode,)))
            self._lift(made)
            fd = made[-1]
            inode = inode_of(os.fstat(fd))
            self._inodes.update(zip(map(made.pop, (-1,)), (inode,), strict=False))
        finally:
            deque(map(os.close, map(made.pop, repeat(-1, len(made)))), maxlen=0)
        return fd

    def _lift(self, made: list[int]) -> None:
        """Until the number of the last one is free for it."""
        while made[-1] < LOWEST or made[-1] in self._inodes:
            lowest = max(LOWEST - 1, *self._inodes, -1) + 1
            made.extend(map(fcntl.fcntl, made[-1:], (fcntl.F_DUPFD_CLOEXEC,), (lowest,)))

    def close(self, fd: int) -> None:
        """In one call of C: a signal's handler cannot end it between the two."""
        deque(map(methodcaller("__call__", fd), (self._inodes.pop, os.close)), maxlen=0)

    def forget(self, fd: int) -> None:
        """The number is another file's: nothing is closed."""
        self._inodes.pop(fd, None)

    def owns(self, fd: int) -> bool:
        """Whether it is still of the file that it was opened on."""
        inode = self._inodes.get(fd)
        return inode is not None and inode == inode_at(fd)

    def all(self) -> list[int]:
        """Those that are not closed."""
        return list(self._inodes)


def inode_at(fd: int) -> Inode | None:
    """Which file the descriptor is of; None if it is not open."""
    try:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    except OSError as error:
        if error.errno != errno.EBADF:  # a file system that fails is no program that closed it
            raise
        return None


def inode_of(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino


@contextmanager
def standard_streams_taken() -> Iterator[None]:
    """A new descriptor has a number that is no standard stream's."""
    taken: list[int] = []
    try:
        _take_standard_streams(taken)
        os.close(taken.pop())
        yield
    finally:
        for fd in taken:
            os.close(fd)


def _take_standard_streams(taken: list[int]) -> None:
    while not taken or taken[-1] < LOWEST:
        taken.append(os.open("/", os.O_RDONLY | os.O_CLOEXEC))  # which nothing can be written to
