"""Disks for tests: one in memory whose files can be looked at and changed, and one that fails on request.

Image     files in memory; remembers what of them was synced
Faulty    any disk, with something in the way of chosen calls
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from mq.storage.disk import Disk, Inode
from mq.storage.memory_disk import MemoryDisk

CHANGES = ("open", "pwrite", "allocate", "sync", "sync_directory", "make_directory", "rename", "unlink")


SAME: Final = 0, 1


class Image(MemoryDisk):
    """A memory disk that is made of given files, and can be taken apart into files again.

    They are the same files then, as after the death of a process.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, *, preallocates: bool = False) -> None:
        super().__init__()
        self._files = {path: bytearray(data) for path, data in (files or {}).items()}
        self._synced = {path: bytes(data) for path, data in self._files.items()}
        self._preallocates = preallocates

    def inode(self, fd: int) -> Inode | None:
        return SAME if fd in self._open else None

    def inode_at(self, path: str) -> Inode | None:
        return SAME

    def map(self, fd: int) -> memoryview:
        return memoryview(self._file(fd)).cast("Q")  # shared, as the kernel's page is

    def allocate(self, fd: int, offset: int, size: int) -> None:
        if self._preallocates:
            file = self._file(fd)
            file.extend(bytes(max(0, offset + size - len(file))))

    def sync(self, fd: int) -> None:
        file = self._file(fd)
        for path, each in self._files.items():
            if each is file:
                self._synced[path] = bytes(file)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._synced[new] = self._synced.pop(old, b"")

    def files(self) -> dict[str, bytes]:
        """What is there after the death of the process: all that was written."""
        return {path: bytes(data) for path, data in self._files.items()}

    def synced_files(self) -> dict[str, bytes]:
        """What is there at least after a power cut: of each file, what was synced."""
        return {path: self._synced.get(path, b"") for path in self._files}


class PowerCut(BaseException):
    """Not an Exception: no handler under test may swallow it."""


Hook = Callable[[str, tuple[Any, ...]], Any]
GO_ON = object()


class Faulty:
    """*disk*, with *hook* asked before every call: it raises, answers, or returns GO_ON.

    `counts` says how often each method was called.
    """

    def __init__(self, disk: Disk, hook: Hook | None = None) -> None:
        self.disk = disk
        self.hook = hook
        self.counts: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.disk, name)
        if not callable(method):
            return method

        def call(*args: Any, **options: Any) -> Any:
            self.counts[name] += 1
            answer = GO_ON if self.hook is None else self.hook(name, args)
            return method(*args, **options) if answer is GO_ON else answer

        return call


def failing(method: str, code: int, *, after: int = 0, times: int = 1 << 30) -> Hook:
    """Let *after* calls of *method* through, fail the next *times* with errno *code*."""
    seen = 0

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        nonlocal seen
        if name == method:
            seen += 1
            if after < seen <= after + times:
                raise OSError(code, os.strerror(code))
        return GO_ON

    return hook


def short_writes(disk: Disk, most: int) -> Hook:
    """No pwrite takes more than *most* bytes."""

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        if name == "pwrite":
            fd, data, offset = args
            return disk.pwrite(fd, data[:most], offset)
        return GO_ON

    return hook


def cut_at(disk: Disk, call: int, *, partly: bool = False) -> Hook:
    """Stop at changing call number *call*; *partly*: half of what it writes is written."""
    seen = 0

    def hook(name: str, args: tuple[Any, ...]) -> Any:
        nonlocal seen
        if name in CHANGES:
            seen += 1
            if seen > call:
                if partly and name == "pwrite":
                    fd, data, offset = args
                    disk.pwrite(fd, data[: len(data) // 2], offset)
                raise PowerCut
        return GO_ON

    return hook


EIO, ENOSPC = errno.EIO, errno.ENOSPC
