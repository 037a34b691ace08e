"""A store opened to be looked at: all that is asked of it is as of one moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mq


@contextmanager
def look(store: str) -> Iterator[mq.Broker]:
    """Nothing is written; beside a process that writes, the log is read once and not for each question."""
    with mq.open(store, read_only=True) as broker:
        broker._store.hold_still()
        yield broker
