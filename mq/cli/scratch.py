"""A directory for what a command makes for itself: gone when it ends; after a crash, when the next one comes.

mq-bench-x7k2/
  lock            flocked for as long as its process lives; without it, or locked: it is left alone
  …
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

LOCK: Final = "lock"


@contextmanager
def scratch(where: str, prefix: str) -> Iterator[str]:
    """A new directory in *where*, whose name begins with *prefix*.  OSError: it cannot be made."""
    if not os.path.isdir(where):
        os.listdir(where)  # whose error says why
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)
    _remove_leftovers(where, prefix)
    try:
        path = tempfile.mkdtemp(prefix=prefix, dir=where)
    except OSError as error:
        error.filename = where  # the name that was tried means nothing to the user
        raise
    lock = -1
    try:
        lock = _lock(path)
        yield path
    finally:
        shutil.rmtree(path)
        if lock >= 0:
            os.close(lock)


def _lock(path: str) -> int:
    """Locked before it is there under its name."""
    lock = os.open(made := os.path.join(path, "new"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(made, os.path.join(path, LOCK))
    return lock


def _remove_leftovers(where: str, prefix: str) -> None:
    """Those of processes of this user that were killed."""
    for name in os.listdir(where):
        if name.startswith(prefix):
            with suppress(OSError):
                _remove(os.path.join(where, name))


def _remove(path: str) -> None:
    """OSError: it is in use, another user's, or not one of these."""
    lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)  # which follows no symbolic link
    finally:
        os.close(lock)
