"""The names of a store's files, and what the path of its directory means.

    data/
      FORMAT                        which store this is
      LOCK, CLEANER                 locked, and empty
      mark                          the page that all processes share
      log/<base, 20 digits>.seg     the segments of the log
      checkpoint/<position>.state   a cache of the state, and in .ids its long arrays
      reserve                       room kept back for a full disk
      wake/<slot>                   the pipes of processes that wait
      quarantine/                   what repair has written over
      results.sqlite                what task libraries keep of their results (results.py); sqlite's -wal, …

No other module makes one of these names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

from mq.errors import StorageError

from .disk import Disk

FORMAT: Final = "FORMAT"
LOCK: Final = "LOCK"
CLEANER: Final = "CLEANER"
MARK: Final = "mark"
LOG: Final = "log"
CHECKPOINT: Final = "checkpoint"
RESERVE: Final = "reserve"
WAKE: Final = "wake"
QUARANTINE: Final = "quarantine"
RESULTS: Final = "results.sqlite"

ASIDE: Final = ".tmp"  # behind the name of a file that is being made, and means nothing until it is renamed
SEGMENT_ASIDE: Final = "segment" + ASIDE  # among the segments
SEGMENT: Final = re.compile(r"([0-9]{20})\.seg")
CHECKPOINT_FILE: Final = re.compile(r"([0-9]{20})\.(state|ids)")

# What a store has beside FORMAT, or a creation that was cut off may leave; and what a new disk has.
NAMES: Final = frozenset(
    {FORMAT + ASIDE, LOCK, CLEANER, MARK, MARK + ASIDE, WAKE, LOG, LOG + ASIDE, CHECKPOINT, RESERVE,
     QUARANTINE, RESULTS, *(RESULTS + end for end in ("-wal", "-shm", "-journal")), "lost+found"}
)  # fmt: skip


# ── in the store's directory ───────────────────────────────────────────────────────


def format_file(store: str) -> str:
    return os.path.join(store, FORMAT)


def lock(store: str) -> str:
    return os.path.join(store, LOCK)


def cleaner(store: str) -> str:
    return os.path.join(store, CLEANER)


def mark(store: str) -> str:
    return os.path.join(store, MARK)


def log(store: str) -> str:
    return os.path.join(store, LOG)


def checkpoints(store: str) -> str:
    return os.path.join(store, CHECKPOINT)


def reserve(store: str) -> str:
    return os.path.join(store, RESERVE)


def bells(store: str) -> str:
    return os.path.join(store, WAKE)


def quarantine(store: str) -> str:
    return os.path.join(store, QUARANTINE)


def results(store: str) -> str:
    return os.path.join(store, RESULTS)


def of(store: str, name: str) -> str:
    """The file of that *name* in the store's directory; "": the directory itself."""
    return os.path.join(store, name) if name else store


def aside(path: str) -> str:
    """Where a file is made that gets the name *path* once it is whole."""
    return path + ASIDE


# ── in the directories below ───────────────────────────────────────────────────────


def store_of(log_directory: str) -> str:
    return os.path.dirname(log_directory)


def segment_name(base: int) -> str:
    return f"{base:020}.seg"


def segment(log_directory: str, base: int) -> str:
    return os.path.join(log_directory, segment_name(base))


def segment_aside(log_directory: str) -> str:
    """Among the segments: what is beside their directory may be on another file system."""
    return os.path.join(log_directory, SEGMENT_ASIDE)


def base_of(name: str) -> int | None:
    """Where the segment in a file of this *name* begins; None if that is not a segment's name."""
    match = SEGMENT.fullmatch(name)
    return int(match[1]) if match else None


def segment_bases(names: Iterable[str]) -> list[int]:
    """Of those of *names* that are a segment's, in order."""
    return sorted(base for base in map(base_of, names) if base is not None)


def state(checkpoints: str, position: int) -> str:
    return os.path.join(checkpoints, f"{position:020}.state")


def ids(checkpoints: str, position: int) -> str:
    return os.path.join(checkpoints, f"{position:020}.ids")


# ── the store's directory ──────────────────────────────────────────────────────────


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
    if disk.exists(format_file(path)):
        return
    strangers = set(disk.names(path)) - NAMES - {FORMAT}  # which another process makes just now, perhaps
    if not strangers:
        log, checkpoint = (_names(disk, of(path, name)) for name in (LOG, CHECKPOINT))
        if any(map(SEGMENT.fullmatch, log)):
            return  # a store that lost its FORMAT
        strangers = (log | checkpoint) - {SEGMENT_ASIDE}
    if strangers and not disk.exists(format_file(path)):
        named = ", ".join(sorted(strangers)[:3]) + (", …" if len(strangers) > 3 else "")
        raise StorageError(
            path,
            f"not a store, and other files are in there ({named}): choose an empty or a new directory",
        )


def _names(disk: Disk, path: str) -> set[str]:
    return set(disk.names(path)) if disk.exists(path) else set()
