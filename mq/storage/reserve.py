"""Room kept back on the disk, so that a full disk can be drained.

A file of nothing beside the log.  Publishes may never use its room; when a delivery,
an ack or the cleaner finds the disk full, the file goes and they take what it held.
From then on publishes are refused, until there is room to keep back again.
"""

from __future__ import annotations

from .disk import Disk


class Reserve:
    def __init__(self, disk: Disk, path: str) -> None:
        self._disk, self._path = disk, path
        self.held = 0  # bytes

    def hold(self, size: int) -> None:
        """Keep *size* bytes back, if it is not so already; OSError if the disk has not so much."""
        if size <= self.held:
            return
        fd = self._disk.open(self._path, write=True, create=True)
        try:
            self.held = self._disk.size(fd)  # perhaps left by who was here before
            if size > self.held:
                self._disk.allocate(fd, 0, size)
        finally:
            self._disk.close(fd)
        self.held = max(size, self.held)

    def release(self) -> bool:
        """Give the room to who needs it now; whether there was any."""
        if not self._disk.exists(self._path):
            return False
        try:
            self._disk.unlink(self._path)
        except OSError:  # a directory, or not ours to remove: then there is no room in it for us
            return False
        self.held = 0
        return True
