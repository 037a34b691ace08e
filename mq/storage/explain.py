"""An error of the system → one of mq's, that says what to do.

What goes wrong with a file is an OSError, as the system raises it.  These are the ones that mean
something to storage, and what the caller of the library is told of them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mq.errors import DiskFull, StorageError

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
# What a read raises if what was stored is gone: no such file, a medium that fails, a checksum of the file
# system that does not fit.  All else (permissions, no memory, …) says nothing of the bytes.
DAMAGE: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "EIO", "EBADMSG", "EUCLEAN", "EILSEQ", "ENODATA")
    if hasattr(errno, name)
)
LEFT: Final = errno.ECANCELED  # what a disk raises that was left to the parent of a fork
LEFT_WHY: Final = (
    "this process is a fork, made inside the operation (in the handler of a signal): the parent goes on with"
    " that, and nothing more of it is done here"
)
NOT_SUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
REOPEN: Final = "close the store in all processes, then open it again"
DENIED: Final = (
    "permission denied; change the permissions, or run as a user who may read and write the store's files"
    " (with read_only=True, who may read them)"
)


@contextmanager
def explain(path: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def pass_on(error: OSError) -> None:
    """Raise it again if it is not the system's.

    TimeoutError is an OSError, and a signal handler may raise it in the middle of anything.  That
    says nothing of a disk, and is the caller's.  The errors of the system have a number.
    """
    if error.errno is None:
        raise error


@contextmanager
def best_effort() -> Iterator[None]:
    """A block that may fail: an error of the system ends it, and is raised no further; see `pass_on`."""
    try:
        yield
    except OSError as error:
        pass_on(error)


def will_pass(error: StorageError) -> bool:
    """Whether it came of too many open files: there is nothing wrong with these."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_DESCRIPTORS


def storage_error(path: str, error: OSError) -> StorageError:
    """The error of the tree that *error* on *path* stands for; see `pass_on`."""
    pass_on(error)
    where = error.filename if isinstance(error.filename, str) else path
    if error.errno in NO_ROOM:
        return DiskFull(where, f"{error.strerror}; nothing was done: free some space and go on")
    advice = {
        errno.ENOENT: "there is no such file or directory; check the path",
        errno.ENOTDIR: "part of the path is a file, not a directory; choose another path",
        errno.EACCES: DENIED,
        errno.EPERM: DENIED,
        errno.EROFS: "the file system is read-only: the store can be read (read_only=True), or copied",
        errno.ENAMETOOLONG: "the path, or a name in it, is too long for this system; choose a shorter one",
        errno.ELOOP: "symbolic links that lead in a circle; choose another path",
        errno.EISDIR: "this is a directory, not a file; move it elsewhere",
        errno.EIO: "Input/output error: the disk fails; copy what can be read, and check the disk",
        errno.ENOMEM: "out of memory; nothing is wrong with the file: try again",
        errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
        errno.ENFILE: "too many open files on this host; raise its limit (sysctl fs.file-max)",
    }
    return StorageError(where, advice.get(error.errno or 0, error.strerror or str(error)))


def left() -> OSError:
    """What is raised in place of a change by a child that left its disk to the parent of a fork."""
    return OSError(LEFT, LEFT_WHY)


def closed_by_program(fd: int, lost: str = "nothing was done") -> str:
    """Why *fd* is not to be used any more, what that may have cost, and what to do."""
    what = f"the program closed descriptor {fd}, which was of this file and may be another file's now"
    return f"{what}; {lost}: {REOPEN}"
