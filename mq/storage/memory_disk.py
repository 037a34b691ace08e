"""A private disk that is gone when it is closed: `:memory:`."""

from __future__ import annotations

import errno
import os
import time
from itertools import count
from typing import Final

from .disk import Inode
from .private_disk import PrivateDisk

MEMORY: Final = ":memory:"  # the path of a store that is on no disk


class MemoryDisk(PrivateDisk):
    """Files that live and die with this object.

    Thread-safe as far as the log needs it, without a lock: each step is one call of C.
    """

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._open: dict[int, bytearray] = {}
        self._directory = bytearray()  # stands for all of them
        self._numbers = count(1)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        file = self._files.setdefault(path, bytearray()) if create else self._files.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        fd = next(self._numbers)
        self._open[fd] = file
        return fd

    def open_directory(self, path: str) -> int:
        fd = next(self._numbers)
        self._open[fd] = self._directory
        return fd

    anchor = open_directory

    def inode(self, fd: int) -> Inode | None:
        return (0, id(self._open[fd])) if fd in self._open else None

    def inode_at(self, path: str) -> Inode | None:
        return 0, id(self._files.get(path, self._directory))

    def owns(self, fd: int) -> bool:
        return fd in self._open

    def made(self, fd: int) -> int:
        return 0

    def links(self, path: str) -> int:
        return int(path in self._files)

    def whereabouts(self, fd: int) -> str:
        return ""

    def close(self, fd: int, /) -> None:
        self._file(fd)
        del self._open[fd]

    def _file(self, fd: int) -> bytearray:
        try:
            return self._open[fd]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        return bytes(self._file(fd)[offset : offset + size])

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        file = self._file(fd)
        if data and offset > len(file):
            file.extend(bytes(offset - len(file)))
        file[offset : offset + len(data)] = data
        return len(data)

    def size(self, fd: int) -> int:
        return len(self._file(fd))

    def allocate(self, fd: int, offset: int, size: int) -> None:
        pass

    def free(self, path: str) -> int | None:
        return None

    def truncate(self, fd: int, size: int) -> None:
        del self._file(fd)[size:]

    def file_system(self, path: str) -> str:
        return ""

    def lockers(self, path: str) -> list[int]:
        return []

    def clocks(self) -> tuple[int, int]:
        return 0, 0

    def names(self, path: str) -> list[str]:
        return [name.rpartition("/")[2] for name in self._files if name.rpartition("/")[0] == path]

    def exists(self, path: str) -> bool:
        return path in self._files

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._files.pop(old)

    def unlink(self, path: str) -> None:
        del self._files[path]

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def open_fifo(self, path: str) -> int:
        return self.open(path, write=True, create=True)

    def listen(self, fd: int, seconds: float) -> None:
        time.sleep(seconds)

    def map(self, fd: int) -> memoryview:
        return memoryview(bytearray(self._file(fd))).cast("B").cast("Q")
