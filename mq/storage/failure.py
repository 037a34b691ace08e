"""The log stops for good: after a write or a sync that failed, and when the files are not its own.

After a failed fsync the kernel may have marked the lost pages clean, so that a second one, even
on a fresh descriptor, reports success for bytes that are gone.  So nothing is tried again: the
page tells all processes, and the next recovery rewrites what was never confirmed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from mq.errors import StorageError, StoreFailed

from .disk import Disk, is_anothers
from .explain import LEFT, LEFT_WHY, explain, pass_on
from .locks import SyncLock
from .owner import Owner
from .shared import DIRTY, FAILED
from .standing import Trouble


class HasPage(Protocol):
    mark: memoryview
    owner: Owner


class Failure:
    error: StorageError | None = None  # why this process appends no more
    told = False  # a caller was told of it

    def __init__(self, disk: Disk, directory: str, log: HasPage, lock: SyncLock) -> None:
        self._disk, self._directory, self._log, self._lock = disk, directory, log, lock
        self._unheard: set[int] = set()  # threads whose errors no caller gets

    # ── the disk ───────────────────────────────────────────────────────────────────

    def fail(self, error: OSError, path: str, fd: int) -> StorageError:
        """Note that the disk's state is unknown from here on; the error to raise; see `pass_on`."""
        pass_on(error)
        if error.errno == LEFT:
            return StoreFailed(path, f"{LEFT_WHY}; whether it is stored is for the parent to know")
        self._say_to_all()
        self.lose_if(self.theft_of(path, fd))
        return self._fail(
            path,
            f"{error.strerror or error}; what was being written is there whole or not at all:"
            " re-open the store",
        )

    def fail_to_sync(self, error: OSError, path: str, fd: int) -> StorageError:
        """The same, of a sync of the file at *path*, or of one before it."""
        if standing := self._log.owner.standing:  # then no disk has failed
            self.lose_if(self.theft_of(path, fd))
            self.lose_if(standing.unanchored())
        self._say_to_all()
        return self._fail(
            self._directory,
            f"fsync failed ({error.strerror}), the outcome is unknown: re-open the store, then look",
        )

    def _say_to_all(self) -> None:
        self._log.mark[FAILED] = self._log.mark[DIRTY] = 1

    def _fail(self, path: str, reason: str) -> StorageError:
        self.error = StoreFailed(path, reason)
        self.tell()
        return self.error

    def check(self) -> None:
        """Raise what stands in the way of another append."""
        if self.error:
            self.tell()
            raise StoreFailed(self.error.path, self.error.reason)
        if self._log.mark[FAILED]:
            raise StoreFailed(
                self._directory,
                "in another process a write or an fsync failed, or a file was found replaced; the outcome is"
                " unknown: close the store in all of them, then re-open it",
            )

    # ── the files ──────────────────────────────────────────────────────────────────

    def theft_of(self, path: str, fd: int) -> Trouble | None:
        """That the descriptor, which was of *path*, is another file's by now; None if not, or not known."""
        standing = self._log.owner.standing
        return standing.stolen(path, fd) if standing else None

    def theft(self, path: str, fd: int) -> Trouble | None:
        """The same; OSError if it cannot be told."""
        standing = self._log.owner.standing
        return standing.stolen(path, fd) if standing and not self._disk.owns(fd) else None

    def require_own(self, path: str, fd: int) -> None:
        """StoreFailed, for good, if the descriptor is another file's by now."""
        with explain(path):
            trouble = self.theft(path, fd)
        self.lose_if(trouble)

    def lose_if(self, trouble: Trouble | None) -> None:
        if trouble:
            self.lose(trouble)

    def lose(self, trouble: Trouble) -> NoReturn:
        """Nothing more is written: this is not, or not only, the store that was opened."""
        if self.error is None:
            if trouble.for_all:
                self._log.mark[FAILED] = 1
            self.error = StoreFailed(trouble.path, trouble.reason)
            if self._lock.fd >= 0 and is_anothers(self._disk, self._lock.fd):
                self._lock.leave()
            self._log.owner.lost(trouble)
        self.tell()
        raise StoreFailed(self.error.path, self.error.reason)

    # ── telling the store ────────────────────────────────────────────────────────────────

    def tell(self) -> None:
        """A caller is told, if this thread has one that hears it."""
        if threading.get_ident() not in self._unheard:
            self.told = True

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """No caller gets the errors of this thread in here; the next operation, or close, raises them."""
        thread = threading.get_ident()
        self._unheard.add(thread)
        try:
            yield
        finally:
            self._unheard.discard(thread)
