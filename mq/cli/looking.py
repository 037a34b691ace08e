"""A store opened to be looked at, as of one moment; or opened to be changed, and made if it is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mq
from mq.cli.app import is_made, note, require_store
from mq.engine.names import is_elsewhere


@contextmanager
def look(store: str) -> Iterator[mq.Broker]:
    """Nothing is written; beside a process that writes, the log is read once and not for each question."""
    require_store(store)
    with mq.open(store, read_only=True) as broker:
        broker._store.hold_still()
        yield broker


def open_there(store: str) -> mq.Broker:
    """Opened to be changed, and not made."""
    require_store(store)
    return mq.open(store)


def open_to_copy(store: str) -> mq.Broker:
    """Opened as others have it, and synced before it is copied; on a read-only file system, only read."""
    require_store(store)
    return mq.open(store, read_only=not is_elsewhere(store) and _is_on_read_only(store))


def _is_on_read_only(path: str) -> bool:
    """Whether *path* is on a file system that is mounted so."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def open_late(store: str) -> mq.Broker:
    """Opened to do much, of which nothing has to be on the disk before the caller flushes, at the end."""
    return mq.open(store) if is_elsewhere(store) else mq.open(store, sync="never")


@contextmanager
def open_or_make(store: str, *, late: bool = False) -> Iterator[mq.Broker]:
    """A store that is made is told of: a wrong --store would look like an empty one.

    *late*: see `open_late`.
    """
    made = not is_made(store)
    with open_late(store) if late else mq.open(store) as broker:
        if made:
            note(f"created the store {broker.path}")
        yield broker
