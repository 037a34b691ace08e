"""What a disk answers whose files no other process has: every lock is free, and no sync is needed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Self

from .window import Window


class PrivateDisk:
    """A part of a Disk.  What is left to do is where the bytes are."""

    def after_fork(self) -> Self:
        return self  # it has one process alone: there is nothing to take leave of

    def resemble(self, path: str) -> bool:
        return True

    def close_rest(self) -> None:
        pass

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def forget(self, fd: int, offset: int, size: int) -> None:
        pass

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass

    def make_directory(self, path: str) -> None:
        pass

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return int

    def lock_byte(self, fd: int, at: int) -> bool:
        return False

    def byte_is_locked(self, fd: int, at: int) -> bool:
        return False

    def heed_barriers(self) -> bool:
        return False

    def barrier(self) -> bool:
        return False

    def make_fifo(self, path: str) -> None:
        pass

    def ring(self, fd: int) -> None:
        pass

    def may_map(self, path: str) -> bool:
        return False  # a write is no more than a copy

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        return None
