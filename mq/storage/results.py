"""results.sqlite, which task libraries keep beside the log: copied with it, and checked.

mq/contrib/results.py reads and writes it.  The log does not need it, and knows nothing of it.  What is
copied is one file: sqlite takes a copy of the database as of one moment, while other processes write to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from mq.errors import CorruptStore, DiskFull, StorageError, StoreLocked

from . import paths
from .disk import Disk

if TYPE_CHECKING:
    import sqlite3

BUSY_SECONDS: Final = 30.0  # how long an operation waits for the one of another process
PAGES: Final = 1 << 10  # copied at a time: Ctrl-C comes in between
DAMAGE_MAX: Final = 10  # findings of one check that are reported


@contextmanager
def explain(path: str) -> Iterator[None]:
    """Turn an error of sqlite into a StorageError that names the file and says what to do."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        raise _storage_error(path, error) from error


def _storage_error(path: str, error: sqlite3.Error) -> StorageError:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what is particular to a system call
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(path, "no space left on the device: nothing was stored; make room")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptStore(
            path, f"{error}: put back that of a backup, or remove it, which loses the results and no message"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(path, None, seconds=BUSY_SECONDS)
    return StorageError(path, f"sqlite says: {error}")


def copy(source: Disk, store: str, target: Disk, path: str) -> None:
    """Make the results in *path* those of *store*, as they are now.  Cut off, they are what they were."""
    import sqlite3

    ours, theirs = paths.results(store), paths.results(path)
    if not source.exists(ours):
        return
    target.close(target.open(theirs, write=True, create=True))  # sqlite would not give it owner and mode
    with explain(theirs), closing(sqlite3.connect(theirs, timeout=BUSY_SECONDS)) as made:
        with explain(ours), closing(_reader(ours, _unlocked(store, ours))) as there:
            # Read as of one moment: else sqlite begins anew with the first page when another process has
            # written, and where results come all the time that never ends.  Writers need not wait for it.
            there.execute("BEGIN")
            there.execute("SELECT 1 FROM sqlite_master").fetchone()
            there.backup(made, pages=PAGES)
        made.execute("PRAGMA journal_mode=DELETE")  # so that the copy is a single file
    target.sync_directory(path)


def _unlocked(store: str, path: str) -> str:
    """On a read-only disk no process writes, and locks cannot be made."""
    return "" if os.access(store, os.W_OK) or os.path.exists(path + "-wal") else "&immutable=1"


def _reader(path: str, options: str = "") -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(f"file:{quote(path)}?mode=ro{options}", timeout=BUSY_SECONDS, uri=True)


def damage(disk: Disk, store: str) -> list[str]:
    """What is wrong with the results of *store*; empty if nothing is, or there are none.  Writes nothing."""
    path = paths.results(store)
    if not disk.exists(path):
        return []
    # Without that file no process has the database open; and to read with locks would make it.
    found = _check(path, "" if disk.exists(path + "-wal") else "&immutable=1")
    # A process may have opened it meanwhile, and written: then what was read is of two moments.
    return _check(path) if found and disk.exists(path + "-wal") else found


def _check(path: str, options: str = "") -> list[str]:
    try:
        with explain(path), closing(_reader(path, options)) as connection:
            rows = connection.execute(f"PRAGMA integrity_check({DAMAGE_MAX})").fetchall()
    except StorageError as error:
        return [error.reason]
    return [text for (text,) in rows if text != "ok"]
