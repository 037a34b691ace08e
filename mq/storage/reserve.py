"""Room kept back on the disk, so that a full disk can be drained.

A file of nothing beside the log.  A publish is refused unless the file is whole.  When a
delivery, an ack or the cleaner finds the disk full, the file is cut by what that takes:
what it still holds is there for those that follow, whatever other programs write meanwhile.
How much each kind of record has to leave is the business of the layer above.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from .disk import Disk
from .explain import NO_ROOM, best_effort, explain

UNIT_BYTES: Final = 16 << 10  # it grows and shrinks in steps of this
NOTHING_HELD: Final = frozenset({errno.ENOENT, errno.EINVAL})  # no file, or something else has its name


class Reserve:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk, self._path = disk, path
        self.held = 0  # bytes, when this process last looked: another one may have cut it since
        self.full = False  # this process met a full disk, and nothing refusable was appended since
        self.way_made = False  # what can be cleaned there was, since something was settled

    def hold(self, size: int) -> None:
        """Keep *size* bytes back; OSError if the disk has not so much.  Asks the disk each time."""
        size = -(-size // UNIT_BYTES) * UNIT_BYTES
        fd = self._disk.open(self._path, write=True, create=True)
        try:
            there = self._disk.size(fd)
            self.held = min(self.held, there)
            if there < size:
                try:
                    self._disk.allocate(fd, there, size - there)
                except OSError:
                    with suppress(OSError):  # some file systems keep what they had found so far
                        self._disk.truncate(fd, there)
                    raise
        finally:
            self._disk.close(fd)
        self.held = max(size, there)

    def has(self, size: int) -> bool:
        """Whether *size* bytes could be kept back just now.  What is held stays as it is."""
        before = self.size()
        if before >= size:
            return True
        try:
            self.hold(size)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return False
        finally:
            self.shrink(before)
        return True

    def is_there_for(self, size: int) -> bool:
        """Whether the disk has *size* bytes, for what needs no new file.

        Without an inode the reserve cannot be made: then what the file system says has to do.
        """
        if self.has(size):
            return True
        free = self._disk.free(os.path.dirname(self._path))
        return free is not None and free >= size and not self._disk.exists(self._path)

    def size(self) -> int:
        """What is held now, by whichever process; OSError if that cannot be told."""
        try:
            fd = self._disk.open(self._path)
        except OSError as error:
            if error.errno in NOTHING_HELD:
                return 0
            raise
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def give(self, size: int, least: int = 0) -> bool:
        """Let go of *size* bytes, but leave *least*; whether there was anything to let go of.

        StorageError if it cannot be told what there is: then all of it stays.
        """
        with explain(self._path):
            there = self.size()
        left = max((there - size) // UNIT_BYTES, -(-least // UNIT_BYTES), 0) * UNIT_BYTES
        if left >= there > 0 or left > 0 == there:
            return False
        return self.shrink(left)

    def shrink(self, size: int) -> bool:
        """Hold no more than *size* bytes; whether that could be done."""
        with best_effort():  # not ours to change: then there is no room in it for us
            if size == 0:
                return self._remove()
            fd = self._disk.open(self._path, write=True)
            try:
                self._disk.truncate(fd, size)
            finally:
                self._disk.close(fd)
            self.held = min(self.held, size)
            return True
        return False

    def _remove(self) -> bool:
        """The whole file: its name and its inode may be what is missing."""
        if not self._disk.exists(self._path):
            return False
        self._disk.unlink(self._path)
        self.held = 0
        return True
