"""Something else than what belongs there has the name of a store's file.

A pipe, a socket, a device, a directory, or a link that leads nowhere: a restore, a container's mount or
a mistake puts it there.  To open a pipe waits for ever, a lock of /dev/null keeps no process out, and
through a link to nowhere a file would be made elsewhere.  So what has the name is looked at first.

A link to what belongs there is as good as that.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads nowhere",
}


def require(kind: int, name: str, directory: int | None) -> None:
    """OSError if something else than *kind*, such as stat.S_IFREG, has the *name*; none passes."""
    mode = _mode(name, directory)
    if mode is not None and (found := stat.S_IFMT(mode)) != kind:
        what = KINDS.get(found, "something unknown")
        instead = "or choose another path" if kind == stat.S_IFDIR else "then try again"
        raise OSError(errno.EINVAL, f"this is {what}, not {KINDS[kind]}; move it elsewhere, {instead}")


def refuse_broken_link(name: str, directory: int | None) -> None:
    """OSError if a link that leads nowhere has the *name*."""
    mode = _mode(name, directory)
    if mode is not None and stat.S_ISLNK(mode):
        what = KINDS[stat.S_IFLNK]
        raise OSError(errno.EINVAL, f"this is {what}; restore what it led to, or remove it, then try again")


def _mode(name: str, directory: int | None) -> int | None:
    """Of what the name leads to, or of a link that leads nowhere; None if it cannot be told."""
    for follow in (True, False):
        with suppress(OSError, ValueError):
            return os.stat(name, dir_fd=directory, follow_symlinks=follow).st_mode
    return None
