"""The operating system's files, locks and pipes.  Only this module touches them, and its parts:

descriptors.py    a number for each file, closed once
ownership.py      owner, group and mode of new files
proc.py           what /proc says
"""

from __future__ import annotations

import copy
import errno
import mmap
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from struct import Struct
from typing import Any, Self

from mq.errors import Unsupported

from . import barrier, irregular, origin, proc
from .descriptors import Descriptors, inode_at, inode_of, standard_streams_taken
from .disk import PAGE_BYTES, Inode, close_all, is_anothers
from .explain import NOT_SUPPORTED, closed_by_program, left, pass_on
from .ownership import Ownership
from .window import Window, is_mapped, map_file

try:
    import fcntl
    import resource
except ImportError:  # Windows; said when a store is opened
    HAVE_LOCKS = False
else:
    HAVE_LOCKS = True
# Of single bytes, of an opening of a file and not of a process: Linux.
HAVE_BYTE_LOCKS = HAVE_LOCKS and hasattr(fcntl, "F_OFD_SETLK") and sys.maxsize > 1 << 32

DEAF_SECONDS = 0.02  # between two looks at a pipe for which nothing can wait
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
NOT_LINKED = getattr(os, "O_NOFOLLOW", 0)
# A lock of a part of a file (`struct flock` where a long has 64 bits): type, whence, start, length, pid.
FLOCK = Struct("hhqqi4x")


class RealDisk:
    """The operating system's files.  One object serves one store."""

    if HAVE_LOCKS:
        pread = staticmethod(os.pread)
        pwrite = staticmethod(os.pwrite)
    pause = staticmethod(time.sleep)

    def __init__(self, mode: int | None = None) -> None:
        """*mode*: of the files of a new store; without it, what the umask leaves of 0o666."""
        if not HAVE_LOCKS:
            raise Unsupported(
                f"mq needs flock and pread, which {sys.platform} does not have: use Linux (on Windows, WSL"
                ' and a directory of its own, not /mnt/c), or mq.open(":memory:")'
            )
        self._descriptors = Descriptors()
        self._anchor, self._root = -1, ""  # a directory, and how the names below it begin
        self._ownership = Ownership(mode)
        self._left = False

    def after_fork(self) -> Self:
        # Asked behind the last call before what it is about: a signal comes between calls.
        mine = copy.copy(self)
        mine._descriptors, mine._anchor = Descriptors(), -1
        self._left = True
        self.pwrite = _refuse_to_write
        return mine

    # ── names ──────────────────────────────────────────────────────────────────────

    def anchor(self, path: str) -> int:
        fd = self.open_directory(path)
        self._anchor, self._root = fd, path.rstrip("/") + "/"
        return fd

    def open_directory(self, path: str) -> int:
        name, at = self._place(path)
        with _naming(path):
            irregular.require(stat.S_IFDIR, name, at)
            return self._descriptors.open(name, DIRECTORY, at)

    def _place(self, path: str) -> tuple[str, int | None]:
        """The name to use, and in which directory."""
        if self._anchor >= 0:
            below = path.startswith(self._root)
            if below or path + "/" == self._root:
                # Else a name would be made, renamed or removed in a directory of another program.
                if not self.owns(self._anchor):
                    raise OSError(errno.EBADF, closed_by_program(self._anchor), self._root[:-1])
                return path[len(self._root) :] if below else ".", self._anchor
        return path, None

    def inode(self, fd: int) -> Inode | None:
        return inode_at(fd)

    def inode_at(self, path: str) -> Inode | None:
        name, at = self._place(path)
        try:
            return inode_of(os.stat(path) if name == "." else os.stat(name, dir_fd=at))
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise
            return None

    def owns(self, fd: int) -> bool:
        return self._descriptors.owns(fd)

    def made(self, fd: int) -> int:
        return origin.made(fd)

    def links(self, path: str) -> int:
        name, at = self._place(path)
        try:
            with _naming(path):
                return os.stat(name, dir_fd=at).st_nlink
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # it leads nowhere, which opening it will say
                return 0
            raise

    def close_rest(self) -> None:
        close_all(self, [fd for fd in self._descriptors.all() if not is_anothers(self, fd)])

    def whereabouts(self, fd: int) -> str:
        return proc.whereabouts(fd)

    def resemble(self, path: str) -> bool:
        name, at = self._place(path)
        try:
            found = os.stat(name, dir_fd=at)
        except OSError:
            return False
        self._ownership.resemble(found)
        return True

    # ── files ──────────────────────────────────────────────────────────────────────

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        name, at = self._place(path)
        with _naming(path):
            irregular.require(stat.S_IFREG, name, at)
            if not create:
                return self._descriptors.open(name, flags, at)
            if self._left:
                raise left()
            try:
                # Exclusively: what is there already, or where a link leads, keeps its owner.
                fd = self._descriptors.open(name, flags | os.O_CREAT | os.O_EXCL, at, self._ownership.mode())
            except FileExistsError:
                return self._descriptors.open(name, flags | os.O_CREAT, at, self._ownership.mode())
            try:
                self._ownership.settle(fd)
            except BaseException:
                self.close(fd)
                raise
            return fd

    def close(self, fd: int, /) -> None:
        """Once: a caller that was interrupted comes again, and the number may be another file's by then."""
        if fd == self._anchor:
            self._anchor = -1
        if is_anothers(self, fd):
            self._descriptors.forget(fd)
        else:
            self._descriptors.close(fd)

    def names(self, path: str) -> list[str]:
        fd = self.open_directory(path)
        try:
            return os.listdir(fd)
        finally:
            self.close(fd)

    def exists(self, path: str) -> bool:
        name, at = self._place(path)
        try:
            os.stat(name, dir_fd=at)
        except OSError as error:
            with _naming(path):
                if error.errno not in NOT_THERE:
                    raise
                irregular.refuse_broken_link(name, at)
            return False
        return True

    def rename(self, old: str, new: str) -> None:
        (name, at), (new_name, new_at) = self._place(old), self._place(new)
        with _naming(new):
            if self._left:
                raise left()
            os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=new_at)

    def unlink(self, path: str) -> None:
        name, at = self._place(path)
        with _naming(path):
            if self._left:
                raise left()
            os.unlink(name, dir_fd=at)

    def pwrite_direct(self, fd: int, data: bytes, offset: int) -> int:
        if not hasattr(os, "O_DIRECT"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)  # the same file for certain, not only its path
        try:
            with mmap.mmap(-1, len(data)) as pages:  # the memory has to begin at a page, too
                pages[:] = data
                if self._left:
                    raise left()
                return os.pwrite(fd, pages, offset)
        finally:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def free(self, path: str) -> int | None:
        try:
            found = os.statvfs(path)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def truncate(self, fd: int, size: int) -> None:
        # Also when the file is no longer than that: a reservation that failed halfway may
        # have left room behind the end of the file.
        size = min(size, os.fstat(fd).st_size)
        if self._left:
            raise left()
        os.ftruncate(fd, size)

    def allocate(self, fd: int, offset: int, size: int) -> None:
        # Beside reserving the room, this makes fdatasync a third cheaper: appending
        # inside the file's size does not change its metadata.
        if hasattr(os, "posix_fallocate"):
            if self._left:
                raise left()
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
        if self._left:
            raise left()
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # a plain fsync there stops at the drive's cache
        else:
            os.fdatasync(fd)

    def sync_directory(self, path: str) -> None:
        fd = self.open_directory(path)
        try:
            os.fsync(fd)
        finally:
            self.close(fd)

    def file_system(self, path: str) -> str:
        return proc.file_system(path)

    def lockers(self, path: str) -> list[int]:
        try:
            name, at = self._place(path)
            return proc.lockers(os.stat(name, dir_fd=at))
        except OSError:
            return []

    clocks = staticmethod(proc.clocks)

    def make_directory(self, path: str) -> None:
        name, at = self._place(path)
        with _naming(path):
            if at is None and (above := os.path.dirname(path)):
                _make_all(above)
            try:
                os.mkdir(name, self._ownership.mode(directory=True), dir_fd=at)
            except FileExistsError:
                irregular.require(stat.S_IFDIR, name, at)
                return
            fd = self._descriptors.open(name, DIRECTORY | NOT_LINKED, at)
            try:
                self._ownership.settle(fd, directory=True)
            finally:
                self.close(fd)

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        if self._left:
            raise left()
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlocker(self, fd: int) -> Callable[[], object]:
        return partial(fcntl.flock, fd, fcntl.LOCK_UN)

    def lock_byte(self, fd: int, at: int) -> bool:
        if self._left or not HAVE_BYTE_LOCKS:
            return False
        try:
            if not self.owns(fd):
                return False
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))
        except OSError:  # another one has it, or the file system has no such locks
            return False
        return True

    def byte_is_locked(self, fd: int, at: int) -> bool:
        if not self.owns(fd):
            raise OSError(errno.EBADF, closed_by_program(fd))
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        kind, *_ = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    heed_barriers = staticmethod(barrier.heed)
    barrier = staticmethod(barrier.barrier)

    def make_fifo(self, path: str) -> None:
        name, at = self._place(path)
        if at is not None and os.mkfifo not in os.supports_dir_fd:  # an old macOS
            name, at = path, None
        with _naming(path):
            try:
                os.mkfifo(name, self._ownership.mode(), dir_fd=at)
            except FileExistsError:
                return
            fd = self._open_fifo(path, NOT_LINKED)
            try:
                self._ownership.settle(fd)
            finally:
                self.close(fd)

    def open_fifo(self, path: str) -> int:
        return self._open_fifo(path)

    def _open_fifo(self, path: str, flags: int = 0) -> int:
        name, at = self._place(path)
        with _naming(path):
            irregular.require(stat.S_IFIFO, name, at)
            return self._descriptors.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | flags, at)

    def ring(self, fd: int) -> None:
        if not self.owns(fd):
            raise OSError(errno.EBADF, closed_by_program(fd))
        with suppress(BlockingIOError):  # full of bells that are not heard yet
            os.write(fd, b"!")

    def listen(self, fd: int, seconds: float) -> None:
        if _is_readable(fd, seconds) and not is_anothers(self, fd):  # what is in another pipe is for others
            with suppress(BlockingIOError):  # another thread has heard it
                os.read(fd, 4096)

    def map(self, fd: int) -> memoryview:
        if sys.version_info >= (3, 13):
            page = mmap.mmap(fd, PAGE_BYTES, trackfd=False)
        else:
            with standard_streams_taken():  # it keeps a descriptor of its own
                page = mmap.mmap(fd, PAGE_BYTES)
        return memoryview(page).cast("Q")

    def may_map(self, path: str) -> bool:
        return sys.platform == "linux" and is_mapped(self.file_system(path))

    def window(self, fd: int, offset: int, size: int) -> Window | None:
        try:
            with standard_streams_taken():
                if self._left or self.size(fd) < offset + size:  # not reserved: the system could not
                    return None
                return map_file(fd, offset, size)
        except OSError as error:  # no memory, no descriptor: a write needs neither
            pass_on(error)
            return None


def file_bytes_max() -> int:
    """How long this process may make a file (RLIMIT_FSIZE): behind it a write fails, in a longer one too."""
    if not HAVE_LOCKS:
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _refuse_to_write(fd: int, data: Any, offset: int, /) -> int:
    raise left()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """An OSError names the whole path, not only what is below the anchor."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # else it is the caller's: see `pass_on`
            error.filename = path
        raise


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


def _make_all(path: str) -> None:
    """The directory *path*, and those above it, so far as they are missing.  `os.makedirs` recurses."""
    missing: list[str] = []
    while path and not _is_there(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        with suppress(FileExistsError):  # another process makes it just now
            os.mkdir(each)


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True
