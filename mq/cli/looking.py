"""A store opened to be looked at, as of one moment; or opened to be changed, and made if it is missing."""

from __future__ import annotations

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
