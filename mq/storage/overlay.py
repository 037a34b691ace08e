"""A disk that shows another one, and keeps every change to itself: for a dry run.

What is done on it can be read back from it, and is gone with it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import msgspec

from .disk import Disk, Inode
from .private_disk import PrivateDisk


class _File(msgspec.Struct):
    size: int
    below: int | None  # a descriptor on the disk below; None: the file is new
    patches: list[tuple[int, bytes]] = []  # in the order they were written


class Overlay(PrivateDisk):
    def __init__(self, disk: Disk, forgotten: str) -> None:
        """Of files in the directory *forgotten* only the size is kept: they are not read again."""
        self._disk, self._forgotten = disk, forgotten
        self._files: dict[str, _File | None] = {}  # those that differ; None: it is gone
        self._open: dict[int, tuple[str, _File]] = {}
        self._next = 1

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        file = self._files.get(path)
        if file is None:
            there = path not in self._files and self._disk.exists(path)
            if not there and not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            below = self._disk.open(path) if there else None
            file = _File(0 if below is None else self._disk.size(below), below)
            if write:
                self._files[path] = file
        fd, self._next = self._next, self._next + 1
        self._open[fd] = path, file
        return fd

    def open_directory(self, path: str) -> int:
        fd, self._next = self._next, self._next + 1
        self._open[fd] = path, _File(0, self._disk.open_directory(path))
        return fd

    anchor = open_directory

    def inode(self, fd: int) -> Inode | None:
        if fd not in self._open:
            return None
        file = self._open[fd][1]
        return (0, id(file)) if file.below is None else self._disk.inode(file.below)

    def inode_at(self, path: str) -> Inode | None:
        file = self._files.get(path)
        return (0, id(file)) if file and file.below is None else self._disk.inode_at(path)

    def owns(self, fd: int) -> bool:
        return fd in self._open

    def made(self, fd: int) -> int:
        below = self._open[fd][1].below
        return 0 if below is None else self._disk.made(below)

    def links(self, path: str) -> int:
        return int(self.exists(path))  # what is changed is changed here only

    def whereabouts(self, fd: int) -> str:
        return self._open[fd][0]

    def close(self, fd: int, /) -> None:
        path, file = self._open.pop(fd)
        if file.below is not None and self._files.get(path) is not file:
            self._disk.close(file.below)

    def release(self) -> None:
        """Close what was kept open for what was changed."""
        for file in self._files.values():
            if file and file.below is not None:
                self._disk.close(file.below)
        self._files.clear()

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        _, file = self._open[fd]
        size = max(0, min(size, file.size - offset))
        found = b"" if file.below is None else self._disk.pread(file.below, size, offset)
        data = bytearray(found.ljust(size, b"\0"))
        for at, patch in file.patches:
            start, stop = max(at, offset), min(at + len(patch), offset + size)
            if start < stop:
                data[start - offset : stop - offset] = patch[start - at : stop - at]
        return bytes(data)

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        path, file = self._open[fd]
        if os.path.dirname(path) != self._forgotten:
            file.patches.append((offset, bytes(data)))
        file.size = max(file.size, offset + len(data))
        return len(data)

    def size(self, fd: int) -> int:
        return self._open[fd][1].size

    def allocate(self, fd: int, offset: int, size: int) -> None:
        file = self._open[fd][1]
        file.size = max(file.size, offset + size)

    def free(self, path: str) -> int | None:
        return self._disk.free(path)

    def truncate(self, fd: int, size: int) -> None:
        file = self._open[fd][1]
        file.size = min(file.size, size)
        file.patches = [(at, patch[: size - at]) for at, patch in file.patches if at < size]

    def names(self, path: str) -> list[str]:
        changed = {os.path.basename(each): file for each, file in self._files.items()
                   if os.path.dirname(each) == path}  # fmt: skip
        below: list[str] = []
        with suppress(FileNotFoundError):
            below = self._disk.names(path)
        return [name for name in below if name not in changed] + [
            name for name, file in changed.items() if file
        ]

    def file_system(self, path: str) -> str:
        return self._disk.file_system(path)

    def lockers(self, path: str) -> list[int]:
        return self._disk.lockers(path)

    def clocks(self) -> tuple[int, int]:
        return self._disk.clocks()

    def exists(self, path: str) -> bool:
        return self._files[path] is not None if path in self._files else self._disk.exists(path)

    def rename(self, old: str, new: str) -> None:
        fd = self.open(old, write=True)
        self._files[new] = self._open[fd][1]
        self._files[old] = None
        del self._open[fd]

    def unlink(self, path: str) -> None:
        self._files[path] = None

    def pause(self, seconds: float) -> None:
        self._disk.pause(seconds)

    def open_fifo(self, path: str) -> int:
        return self.open(path, write=True, create=True)

    def listen(self, fd: int, seconds: float) -> None:
        self._disk.pause(seconds)

    def map(self, fd: int) -> memoryview:
        return memoryview(bytearray(self.pread(fd, 4096, 0))).cast("Q")
