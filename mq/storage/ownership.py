"""Owner, group and mode of new files: those of the store's FORMAT, as far as this process may give them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress


class Ownership:
    def __init__(self, mode: int | None) -> None:
        """*mode*: of the files of a new store; without it, what the umask leaves of 0o666."""
        self._owner: tuple[int, int] | None = None  # of new files
        self._mode = mode

    def resemble(self, found: os.stat_result) -> None:
        """Give new files what *found* has: FORMAT, or the directory that a store is made in."""
        if not stat.S_ISDIR(found.st_mode):
            self._owner, self._mode = (found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode) & 0o666
        elif os.geteuid() == 0:
            self._owner = found.st_uid, found.st_gid

    def mode(self, *, directory: bool = False) -> int:
        """What to create a file with; the umask takes from it."""
        mode = 0o666 if self._mode is None else self._mode
        return mode | (mode & 0o444) >> 2 if directory else mode

    def settle(self, fd: int, *, directory: bool = False) -> None:
        """Give a new file its owner, group and mode, as far as this process may."""
        found = os.fstat(fd)
        if self._owner and (found.st_uid, found.st_gid) != self._owner:
            with suppress(OSError):
                os.fchown(fd, -1, self._owner[1])
            with suppress(OSError):
                os.fchown(fd, *self._owner)
            found = os.fstat(fd)
        if self._mode is not None:
            now = stat.S_IMODE(found.st_mode)
            mode = self.mode(directory=directory)
            if self._owner and found.st_gid != self._owner[1]:
                mode &= now | 0o707  # another group than the one that FORMAT's mode is meant for
            if mode != now & 0o777:
                with suppress(OSError):
                    os.fchmod(fd, mode | now & 0o7000)  # a directory keeps handing on its group
