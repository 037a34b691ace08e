"""The directory that is to be a store: what its path means, and whether a store may be made there."""

from __future__ import annotations

import os
import re
from typing import Final

from mq.errors import StorageError

from .disk import Disk

# What a store has beside FORMAT, or a creation that was cut off may leave; and what a new disk has.
NAMES: Final = frozenset(
    {"FORMAT.tmp", "LOCK", "CLEANER", "mark", "mark.tmp", "wake", "log", "checkpoint", "reserve",
     "quarantine", "lost+found"}
)  # fmt: skip
SEGMENT: Final = re.compile(r"\d{20}\.seg")


def absolute(path: str) -> str:
    """*path* from the root, as the system takes it: `..` behind a symbolic link is above where that leads.

    StorageError if the working directory is gone.
    """
    if not path.startswith("/"):
        try:
            path = f"{os.getcwd()}/{path}"
        except OSError:
            raise StorageError(
                path,
                "the working directory was deleted: change to another one, or give a path from the root",
            ) from None
    return tidy(path)


def tidy(path: str) -> str:
    """*path* without what says nothing: `./`, `//` and a `/` at the end.  Not without `..`, which does."""
    root = "/" if path.startswith("/") else ""
    return root + "/".join(part for part in path.split("/") if part not in ("", ".")) or "."


def require_room(disk: Disk, path: str) -> None:
    """StorageError if the directory *path* is no store, and the files of something else are in there."""
    if disk.exists(os.path.join(path, "FORMAT")):
        return
    strangers = set(disk.names(path)) - NAMES - {"FORMAT"}  # which another process makes just now, perhaps
    if not strangers:
        log, checkpoint = (_names(disk, os.path.join(path, name)) for name in ("log", "checkpoint"))
        if any(map(SEGMENT.fullmatch, log)):
            return  # a store that lost its FORMAT
        strangers = log | checkpoint
    if strangers and not disk.exists(os.path.join(path, "FORMAT")):
        named = ", ".join(sorted(strangers)[:3]) + (", …" if len(strangers) > 3 else "")
        raise StorageError(
            path,
            f"not a store, and other files are in there ({named}): choose an empty or a new directory",
        )


def _names(disk: Disk, path: str) -> set[str]:
    return set(disk.names(path)) if disk.exists(path) else set()
