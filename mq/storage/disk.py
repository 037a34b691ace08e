"""What storage asks of a disk.  Everything above speaks to a `Disk`, which has three faces:

    RealDisk     real_disk.py: the operating system's files
    MemoryDisk   memory_disk.py: a private one that is gone at close, ":memory:"
    Overlay      overlay.py: one that shows another, and keeps every change to itself

and more in the tests, which forget, tear and fail as real disks do.  A file is an int, a path
is a str, and what can go wrong is an OSError; the layer above turns that into an error that
says what to do (explain.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final, Protocol, Self

from .explain import pass_on
from .window import Window

PAGE_BYTES: Final = 4096
LOOK_NAP_SECONDS: Final = 200e-6  # between two looks at a lock that another process has
LOOKS_MIN: Final = 10  # at what another process has, before it is given up

Inode = tuple[int, int]  # device and number: which file it is, whatever its name


class Disk(Protocol):
    """What storage asks of a disk.  Offsets and sizes are bytes."""

    def anchor(self, path: str) -> int:
        """A descriptor of the directory *path*.  Until it is closed, every name below *path* is looked up in
        that directory, even if it is moved, or another one gets its name."""

    def open_directory(self, path: str) -> int:
        """A descriptor of a directory, to be locked."""

    def inode(self, fd: int) -> Inode | None:
        """Which file the descriptor is of; None if it is not open; OSError if this cannot be told."""

    def inode_at(self, path: str) -> Inode | None:
        """Which file has that name now; None if there is none.  An anchor itself is looked up by its name."""

    def owns(self, fd: int) -> bool:
        """Whether the descriptor is still of the file that it was opened on; OSError if this cannot be told.

        A program may close descriptors that are not its own, and get the number for another file.
        """

    def made(self, fd: int) -> int:
        """What tells the file from others that had its number before it was made; 0 if nothing does."""

    def links(self, path: str) -> int:
        """How many names the file has; 0 if there is none of this name."""

    def close_rest(self) -> None:
        """Close what is still open: what an interruption kept the owner from noting, or from closing."""

    def whereabouts(self, fd: int) -> str:
        """The file's path now; "" if the system does not say."""

    def resemble(self, path: str) -> bool:
        """New files get owner, group and mode of the file *path*, if it is there, and so far as permitted.

        Of a directory only the owner counts, and only for the superuser.
        """

    def after_fork(self) -> Self:
        """In a child: the disk to go on with.  This one changes nothing any more, and raises LEFT.

        The handler of a signal may have forked inside an operation, which the child then goes on with
        as the parent does: what it has in hand is the parent's, or a number that is another file's.
        """

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int: ...
    def close(self, fd: int, /) -> None: ...
    def pread(self, fd: int, size: int, offset: int, /) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int: ...
    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        """Write whole pages past the page cache, which drops them; EINVAL where the system cannot."""

    def size(self, fd: int) -> int: ...
    def allocate(self, fd: int, offset: int, size: int) -> None:
        """Reserve room and grow the file over it, or raise; a hint where the system cannot."""

    def truncate(self, fd: int, size: int) -> None:
        """Make the file no longer than *size*, and give back the room behind that."""

    def free(self, path: str) -> int | None:
        """About how many bytes there is room for; None if the system does not say."""

    def forget(self, fd: int, offset: int, size: int) -> None:
        """Read from the disk again what is in memory and passes for being there; a hint."""

    def sync(self, fd: int) -> None:
        """Return when the file's bytes, and what it takes to find them, are on the disk."""

    def sync_directory(self, path: str) -> None:
        """Return when the names in the directory are on the disk."""

    def file_system(self, path: str) -> str:
        """The kind of file system that *path* is on, or would be; "" if the system does not say."""

    def lockers(self, path: str) -> list[int]:
        """The processes that have a lock of the file; none if the system does not say."""

    def clocks(self) -> tuple[int, int]:
        """Which monotonic clock this process has: of which boot, in which time namespace.

        0 for what the system does not say.  As u64.
        """

    def names(self, path: str) -> list[str]: ...
    def exists(self, path: str) -> bool:
        """Whether there is a file of that name; OSError if this cannot be told."""

    def make_directory(self, path: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def lock(self, fd: int, *, shared: bool = False) -> bool:
        """Try to take the file's lock, without waiting.  It goes with the descriptor.

        A lock that is held already is exchanged; if that fails, neither is held.
        """

    def unlocker(self, fd: int) -> Callable[[], object]:
        """What lets go of the file's lock, in one call that nothing can interrupt."""

    def lock_byte(self, fd: int, at: int) -> bool:
        """Try to take the lock of one byte of the file, without waiting.  It goes with the descriptor.

        Such a lock and that of the whole file know nothing of each other.  False, too, where there are none.
        """

    def byte_is_locked(self, fd: int, at: int) -> bool:
        """Whether another descriptor has the lock of that byte."""

    def heed_barriers(self) -> bool:
        """Have this process take part in the barriers of others; whether there are any: see barrier.py."""

    def barrier(self) -> bool:
        """A barrier for the processors of all processes that heed them; False if there is none."""

    def pause(self, seconds: float) -> None:
        """Let others run, at least so long."""

    def make_fifo(self, path: str) -> None:
        """A pipe with a name, if it is not there already."""

    def open_fifo(self, path: str) -> int:
        """For both ends, so that neither waits for the other."""

    def ring(self, fd: int) -> None:
        """Wake the process that listens at the pipe."""

    def listen(self, fd: int, seconds: float) -> None:
        """Return when a process rings, or after *seconds*."""

    def map(self, fd: int) -> memoryview:
        """The file's first page as u64 words that every process sees."""

    def may_map(self, path: str) -> bool:
        """Whether files there may be written to through a window: see window.py."""

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        """A part of the file, mapped; None if that cannot be had now.  Its room was reserved, and *offset*
        is that of a page."""


def is_anothers(disk: Disk, fd: int) -> bool:
    """Whether the descriptor is certainly not, or no longer, of the file that it was opened on.

    For what is to be closed, or has failed already: what cannot be told is no reason to leave it open.
    """
    try:
        return not disk.owns(fd)
    except OSError as error:
        pass_on(error)
        return False


class Patience:
    """Waiting for another process, for so many seconds in which this one ran.

    It may be stopped meanwhile (Ctrl-Z, a debugger, a frozen container), for hours, and go on when what it
    waits for is free: then the other one is not late.  So only so much counts between two looks that there
    are LOOKS_MIN of them at least.
    """

    def __init__(self, seconds: float) -> None:
        self._limit, self._most = seconds, seconds / LOOKS_MIN
        self.waited = 0.0
        self._looked = time.monotonic()

    def is_over(self) -> bool:
        """Asked each time that it was looked in vain."""
        now = time.monotonic()
        self.waited += min(now - self._looked, self._most)
        self._looked = now
        return self.waited >= self._limit


def lock_within(disk: Disk, fd: int, seconds: float) -> bool:
    """Lock the file, if it can be had within so many *seconds*."""
    patience = Patience(seconds)
    while not disk.lock(fd):
        if patience.is_over():
            return False
        disk.pause(LOOK_NAP_SECONDS)
    return True


def read_all(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    """*size* bytes, or all that the file has, however short the single reads turn out."""
    parts, done = [], 0
    while done < size and (part := disk.pread(fd, size - done, offset + done)):
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def write_all(disk: Disk, fd: int, data: bytes, offset: int) -> None:
    """Write every byte, however short the single writes turn out."""
    done = disk.pwrite(fd, data, offset)
    while done < len(data):
        done += disk.pwrite(fd, data[done:], offset + done)


def write_file(disk: Disk, path: str, *parts: bytes) -> None:
    """A new file, *parts* on the disk; to be given its name by a rename.

    One that is left of a process that died here goes first: it may be longer, and what a
    failed fsync left of it in memory may never reach the disk.
    """
    if disk.exists(path):
        disk.unlink(path)
    fd = disk.open(path, write=True, create=True)
    try:
        offset = 0
        for part in parts:
            write_all(disk, fd, part, offset)
            offset += len(part)
        disk.sync(fd)
    finally:
        disk.close(fd)


def close_all(disk: Disk, fds: Iterable[int]) -> None:
    """Close all of *fds* that are descriptors, whatever one of them raises; then raise that."""
    fds = [fd for fd in fds if fd >= 0]
    with ExitStack() as closing:
        for fd in fds:
            closing.callback(disk.close, fd)
