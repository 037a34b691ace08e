"""What the processes of one host share: the store's lock, and one page of numbers.

`mark` is 4096 bytes of u64 words, mapped by whoever has the store open:

    ┌─────┬─────┬───────┬────────┬─────────┬────────┬──────┬────────┬───────────────┐
    │ key │ end │ dirty │ synced │ syncing │ failed │ head │ holder │ synced, again │  … zeros
    └─────┴─────┴───────┴────────┴─────────┴────────┴──────┴────────┴───────────────┘

After a crash only `synced` means anything: everything below it was once on the disk.
It is a lower bound, and only if the key is the store's own.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

from mq.errors import StoreLocked

from .disk import PAGE_BYTES, Disk, write_all

KEY: Final = 0
END: Final = 1  # the log ends here
DIRTY: Final = 2  # a write behind `end` has begun
SYNCED: Final = 3  # everything below is on the disk
SYNCING: Final = 4  # an fsync has begun
FAILED: Final = 5  # a write or an fsync failed; nobody goes on until all have closed
HEAD: Final = 6  # the log begins here
HOLDER: Final = 7  # the process that has the lock
SYNCED_TWIN: Final = 8  # says what SYNCED says: the page has no checksum

NO_LIMIT: Final = 1 << 64  # behind every position
LOCK_WAIT_SECONDS: Final = 0.25  # a reader that only looks whether somebody is there lets go at once


def open_mark(disk: Disk, path: str, key: bytes) -> memoryview:
    """Map the page; made anew, all zeros, if it is missing or not this store's."""
    fd = disk.open(path, write=True, create=True)
    try:
        page = disk.pread(fd, PAGE_BYTES, 0)
        if len(page) < PAGE_BYTES or not page.startswith(key):
            old, fd = fd, _make_mark(disk, path, key)
            disk.close(old)
        return disk.map(fd)
    finally:
        disk.close(fd)


def _make_mark(disk: Disk, path: str, key: bytes) -> int:
    """A descriptor on a new page.  It has its name only once it is whole: it has no checksum."""
    if disk.exists(path + ".tmp"):
        disk.unlink(path + ".tmp")
    fd = disk.open(path + ".tmp", write=True, create=True)
    try:
        # Written, never ftruncated: on a full disk a hole would be a SIGBUS later.
        write_all(disk, fd, key + bytes(PAGE_BYTES - len(key)), 0)
        disk.sync(fd)
        disk.rename(path + ".tmp", path)
    except BaseException:
        disk.close(fd)
        raise
    return fd


def read_mark(disk: Disk, path: str, key: bytes) -> list[int]:
    """The words of the page as they are now; zeros if it is not there or not this store's."""
    if disk.exists(path):
        fd = disk.open(path)
        try:
            page = disk.pread(fd, PAGE_BYTES, 0)
        finally:
            disk.close(fd)
        if len(page) == PAGE_BYTES and page.startswith(key):
            return memoryview(page).cast("Q").tolist()
    return [0] * (PAGE_BYTES // 8)


def claimed(words: memoryview | list[int]) -> int:
    """How far the page says that the log is on the disk.

    It says so twice, and the smaller one holds: both were once true, and a bit that
    flips must not make an intact log look cut off.
    """
    once, again = words[SYNCED], words[SYNCED_TWIN]
    return min(once, again) if again else once


def take_lock(disk: Disk, path: str, mark_path: str) -> int:
    """The descriptor that holds the store's lock; StoreLocked, naming the holder, if it is taken."""
    fd = disk.open(path, write=True, create=True)
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    while not disk.lock(fd):
        if time.monotonic() > give_up:
            disk.close(fd)
            raise StoreLocked(os.path.dirname(path), holder(disk, mark_path))
        time.sleep(0.002)
    return fd


def holder(disk: Disk, mark_path: str) -> int | None:
    """The pid that last took the lock, if the page tells."""
    if not disk.exists(mark_path):
        return None
    fd = disk.open(mark_path)
    try:
        return int.from_bytes(disk.pread(fd, 8, HOLDER * 8), "little") or None
    finally:
        disk.close(fd)


def is_held(disk: Disk, path: str) -> bool:
    """Whether somebody has the store open.  Looks, and lets go at once."""
    if not disk.exists(path):
        return False
    fd = disk.open(path)
    try:
        return not disk.lock(fd, shared=True)
    finally:
        disk.close(fd)


class View(NamedTuple):
    """What somebody who only reads may rely on."""

    held: bool  # somebody has the store open
    end: int
    synced: int
    head: int

    def explains(self, later: View) -> bool:
        """Whether what looks wrong may only be due to what a writer did until a *later* look.

        One that came in between makes a log that was read to its end look torn; one that
        is there may have dropped segments, and they look missing.
        """
        return self.head != later.head if self.held else self != later

    @property
    def upto(self) -> int:
        """Where to stop reading: the log's end, if somebody is there to vouch for it."""
        return self.end if self.held else NO_LIMIT


def look(disk: Disk, path: str, key: bytes) -> View:
    """The store at *path* as it is now; unless it is held, the next look may differ."""
    held = is_held(disk, os.path.join(path, "LOCK"))
    words = read_mark(disk, os.path.join(path, "mark"), key)
    # The page is read word by word while it changes.
    synced = min(claimed(words), words[END]) if held else claimed(words)
    return View(held, words[END], synced, words[HEAD])
