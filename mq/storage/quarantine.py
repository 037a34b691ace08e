"""quarantine/: copies of bytes that are about to be written over.

    quarantine/<file>-<offset>.bin      as they were found; a second copy of other bytes there is `….2.bin`

No copy is ever written over, and each is on the disk before what it is a copy of is changed.
"""

from __future__ import annotations

import os
from typing import Final

from mq.errors import StorageError

from . import paths
from .disk import Disk, write_all

COPY_BYTES: Final = 1 << 20
COPIES_MAX: Final = 1 << 16  # of one place


class Quarantine:
    def __init__(self, disk: Disk, store: str) -> None:
        self._disk, self._store, self._directory = disk, store, paths.quarantine(store)

    def save_file(self, path: str) -> tuple[int, str]:
        """Copy all of a file; its size, and the copy."""
        fd = self._disk.open(path)
        try:
            size = self._disk.size(fd)
        finally:
            self._disk.close(fd)
        return size, self.save(path, os.path.basename(path), 0, size)

    def save(self, path: str, name: str, offset: int, size: int) -> str:
        """Copy a part of a file to the quarantine, durably; the copy's path, "" if nothing is there.

        No copy is ever written over: what an earlier run saved was there before it wrote.
        """
        fd = self._disk.open(path)
        try:
            size = min(size, self._disk.size(fd) - offset)
            if size <= 0:
                return ""
            self._disk.make_directory(self._directory)
            self._disk.sync_directory(self._store)
            return self._save_beside(fd, name, offset, size)
        finally:
            self._disk.close(fd)

    def _save_beside(self, fd: int, name: str, offset: int, size: int) -> str:
        for number in range(1, COPIES_MAX):
            suffix = f".{number}" if number > 1 else ""
            target = os.path.join(self._directory, f"{name}-{offset}{suffix}.bin")
            if not self._disk.exists(target):
                self._copy(fd, offset, size, target)
                return target
            if self._is_copy(fd, offset, size, target):
                return target
        raise StorageError(self._directory, "too many copies of the same place; move some elsewhere")

    def _copy(self, fd: int, offset: int, size: int, target: str) -> None:
        disk = self._disk
        if disk.exists(paths.aside(target)):
            disk.unlink(paths.aside(target))
        copy = disk.open(paths.aside(target), write=True, create=True)
        try:
            for at in range(0, size, COPY_BYTES):
                write_all(disk, copy, disk.pread(fd, min(COPY_BYTES, size - at), offset + at), at)
            disk.sync(copy)
        finally:
            disk.close(copy)
        disk.rename(paths.aside(target), target)
        disk.sync_directory(self._directory)

    def _is_copy(self, fd: int, offset: int, size: int, target: str) -> bool:
        disk = self._disk
        copy = disk.open(target)
        try:
            if disk.size(copy) != size:
                return False
            return all(
                disk.pread(copy, COPY_BYTES, at) == disk.pread(fd, min(COPY_BYTES, size - at), offset + at)
                for at in range(0, size, COPY_BYTES)
            )
        finally:
            disk.close(copy)
