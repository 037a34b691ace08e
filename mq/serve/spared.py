"""Spared: looks at many queues, during which no garbage is collected.

A full collection looks at all objects, and no thread runs meanwhile: of 10,000 queues it takes most of a
second.  The first look makes all those objects, with one full collection after the other.  So there is none
during a look; and what was made of many queues is put out of the reach of all later ones.  It lives as long
as the server, as a rule: garbage in a circle among it is not freed before that.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from mq import Broker
from mq.api.broker import StoreStats

OBJECTS_MIN: Final = 100_000  # that were made since the last time: fewer take no time to look at

_lock: Final = threading.Lock()  # of the next two
_looks = 0  # that go on
_was_enabled = True


@contextmanager
def collections() -> Iterator[None]:
    """None is made meanwhile."""
    global _looks, _was_enabled
    with _lock:
        if not _looks:
            _was_enabled = gc.isenabled()
            gc.disable()
        _looks += 1
    try:
        yield
    finally:
        with _lock:
            _looks -= 1
            if not _looks and _was_enabled:
                if gc.get_count()[0] >= OBJECTS_MIN:
                    gc.freeze()
                gc.enable()


def stats(broker: Broker, queues: Collection[str] | None = None) -> StoreStats:
    """`broker.stats`, which makes all that there is of each queue that it looks at for the first time."""
    with collections():
        return broker.stats(queues)
