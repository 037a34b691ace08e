"""The only module that touches files, locks and the shared page.

Everything above speaks to a `Disk`.  There are two here, with the same face:

    RealDisk     the operating system's files
    MemoryDisk   a private one that is gone at close: ":memory:"

and a third in the tests, which forgets, tears and fails as real disks do.  A file
is an int, a path is a str, and what can go wrong is an OSError; the layer above
turns that into an error that says what to do (see `explain`).
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Protocol

from mq.errors import DiskFull, StorageError, Unsupported

from . import network

try:
    import fcntl
except ImportError:  # Windows; said when a store is opened
    HAVE_LOCKS = False
else:
    HAVE_LOCKS = True

PAGE_BYTES = 4096
DEAF_SECONDS = 0.02  # between two looks at a pipe for which nothing can wait
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Disk(Protocol):
    """What storage asks of a disk.  Offsets and sizes are bytes."""

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
    def exists(self, path: str) -> bool: ...
    def make_directory(self, path: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def lock(self, fd: int, *, shared: bool = False) -> bool:
        """Try to take the file's lock, without waiting.  It goes with the descriptor.

        A lock that is held already is exchanged; if that fails, neither is held.
        """

    def unlocker(self, fd: int) -> Callable[[], object]:
        """What lets go of the file's lock, in one call that nothing can interrupt."""

    def pause(self, seconds: float) -> None:
        """Let others run, at least so long."""

    def make_fifo(self, path: str) -> None:
        """A pipe with a name, if it is not there already."""

    def open_fifo(self, path: str) -> int:
        """For both ends, so that neither waits for the other."""

    def ring(self, fd: int) -> None:
        """Wake who listens at the pipe."""

    def listen(self, fd: int, seconds: float) -> None:
        """Return when somebody rings, or after *seconds*."""

    def map(self, fd: int) -> memoryview:
        """The file's first page as u64 words that every process sees."""


class RealDisk:
    """The operating system's files."""

    close = staticmethod(os.close)
    if HAVE_LOCKS:
        pread = staticmethod(os.pread)
        pwrite = staticmethod(os.pwrite)
    names = staticmethod(os.listdir)
    exists = staticmethod(os.path.exists)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    pause = staticmethod(time.sleep)

    def __init__(self) -> None:
        if not HAVE_LOCKS:
            raise Unsupported(
                f"mq needs flock and pread, which {sys.platform} does not have: use Linux (on Windows, WSL"
                ' and a directory of its own, not /mnt/c), or mq.open(":memory:")'
            )

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        flags = os.O_RDWR if write else os.O_RDONLY
        return os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        if not hasattr(os, "O_DIRECT"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)  # the same file for certain, not only its path
        try:
            with mmap.mmap(-1, len(data)) as pages:  # the memory has to begin at a page, too
                pages[:] = data
                return os.pwrite(fd, pages, offset)
        finally:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def truncate(self, fd: int, size: int) -> None:
        # Also when the file is no longer than that: a reservation that failed halfway may
        # have left room behind the end of the file.
        os.ftruncate(fd, min(size, os.fstat(fd).st_size))

    def allocate(self, fd: int, offset: int, size: int) -> None:
        # Beside reserving the room, this makes fdatasync a third cheaper: appending
        # inside the file's size does not change its metadata.
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, offset, size)
            except OSError as error:  # of the file system, if the C library does not make up for it
                if error.errno not in NOT_SUPPORTED:
                    raise

    def forget(self, fd: int, offset: int, size: int) -> None:
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # not every file system takes advice
                os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)

    def sync(self, fd: int) -> None:
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # a plain fsync there stops at the drive's cache
        else:
            os.fdatasync(fd)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def file_system(self, path: str) -> str:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
                return network.kind_at(os.path.realpath(path), mounts.read())
        except OSError:  # not Linux, or no /proc
            return ""

    def lockers(self, path: str) -> list[int]:
        try:
            file = os.stat(path)
            with open("/proc/locks", encoding="ascii") as locks:
                rows = [line.split() for line in locks]
        except OSError:
            return []
        name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        return sorted({int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == name})

    def clocks(self) -> tuple[int, int]:
        boot = space = 0
        with suppress(OSError, ValueError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = int(file.read().strip().replace("-", ""), 16) % (1 << 64)
        with suppress(OSError):
            space = os.stat("/proc/self/ns/time").st_ino
        return boot, space

    def make_directory(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return partial(fcntl.flock, fd, fcntl.LOCK_UN)

    def make_fifo(self, path: str) -> None:
        with suppress(FileExistsError):
            os.mkfifo(path)

    def open_fifo(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self, fd: int) -> None:
        with suppress(BlockingIOError):  # full of bells that nobody has heard yet
            os.write(fd, b"!")

    def listen(self, fd: int, seconds: float) -> None:
        if _is_readable(fd, seconds):
            with suppress(BlockingIOError):  # somebody else has heard it
                os.read(fd, 4096)

    def map(self, fd: int) -> memoryview:
        return memoryview(mmap.mmap(fd, PAGE_BYTES)).cast("Q")


def _is_readable(fd: int, seconds: float) -> bool:
    """Whether there is something to read, within *seconds*; perhaps, where the system does not say."""
    if hasattr(select, "poll"):  # eventlet takes it away
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    except ValueError:  # select() knows no descriptor beyond 1023
        time.sleep(min(seconds, DEAF_SECONDS))
        return True


class MemoryDisk:
    """Files that live and die with this object.  Thread-safe as far as the log needs it."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._open: dict[int, bytearray] = {}
        self._next = 1
        self._mutex = threading.Lock()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        with self._mutex:
            if create:
                self._files.setdefault(path, bytearray())
            if path not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            fd, self._next = self._next, self._next + 1
            self._open[fd] = self._files[path]
            return fd

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

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def size(self, fd: int) -> int:
        return len(self._file(fd))

    def allocate(self, fd: int, offset: int, size: int) -> None:
        pass

    def truncate(self, fd: int, size: int) -> None:
        del self._file(fd)[size:]

    def forget(self, fd: int, offset: int, size: int) -> None:
        pass

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass

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

    def make_directory(self, path: str) -> None:
        pass

    def rename(self, old: str, new: str) -> None:
        self._files[new] = self._files.pop(old)

    def unlink(self, path: str) -> None:
        del self._files[path]

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return int

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def make_fifo(self, path: str) -> None:
        pass

    def open_fifo(self, path: str) -> int:
        return self.open(path, write=True, create=True)

    def ring(self, fd: int) -> None:
        pass

    def listen(self, fd: int, seconds: float) -> None:
        time.sleep(seconds)

    def map(self, fd: int) -> memoryview:
        return memoryview(bytearray(self._file(fd))).cast("B").cast("Q")


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


def write_file(disk: Disk, path: str, data: bytes) -> None:
    """A new file, its bytes on the disk; to be given its name by a rename.

    One that is left of somebody who died here goes first: it may be longer, and what a
    failed fsync left of it in memory may never reach the disk.
    """
    if disk.exists(path):
        disk.unlink(path)
    fd = disk.open(path, write=True, create=True)
    try:
        write_all(disk, fd, data, 0)
        disk.sync(fd)
    finally:
        disk.close(fd)


def close_all(disk: Disk, fds: Iterable[int]) -> None:
    """Close all of *fds* that are descriptors, whatever one of them raises; then raise that."""
    with ExitStack() as closing:
        for fd in fds:
            if fd >= 0:
                closing.callback(disk.close, fd)


@contextmanager
def explain(path: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def will_pass(error: StorageError) -> bool:
    """Whether it came of too many open files: there is nothing wrong with these."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_DESCRIPTORS


def storage_error(path: str, error: OSError) -> StorageError:
    """The error of the tree that *error* on *path* stands for."""
    where = error.filename if isinstance(error.filename, str) else path
    if error.errno in NO_ROOM:
        return DiskFull(where, f"{error.strerror}; nothing was published: free some space and go on")
    advice = {
        errno.ENOENT: "there is no such file or directory; check the path",
        errno.ENOTDIR: "part of the path is a file, not a directory; choose another path",
        errno.EEXIST: "this is a file, not a directory; choose another path",
        errno.EACCES: "permission denied; change the permissions, or open it read-only",
        errno.EPERM: "permission denied; change the permissions, or open it read-only",
        errno.EROFS: "the file system is read-only; open it with read_only=True",
        errno.EISDIR: "this is a directory, not a file; move it elsewhere",
        errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
        errno.ENFILE: "too many open files on this host; raise its limit (sysctl fs.file-max)",
    }
    return StorageError(where, advice.get(error.errno or 0, error.strerror or str(error)))
