"""Between two slices of an operation that concerns very many messages.

    slice ── leave ── give way ── enter ── slice …

A process that waits for the store's lock says so on the page, and `enter` steps aside for it.  A
thread of this process cannot: it sleeps at the mutex, and has to be woken before it can take it.  A
thread that lets go of the mutex and takes it again at once is always first, for seconds.
"""

from __future__ import annotations

from typing import Final

from mq.engine.store import Store

GIVE_WAY_SECONDS: Final = 20e-6  # the system makes 80 of it: as long as it takes to wake a thread


def give_way(store: Store) -> None:
    """Let the other threads of this process have the mutex first; called without it."""
    if len(store.busy) > 1:  # besides this thread
        store.disk.pause(GIVE_WAY_SECONDS)
