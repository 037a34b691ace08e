"""Between two slices of an operation that concerns very many messages.

    slice ── leave ── give way ── enter ── slice …

A process that waits for the store's lock says so on the page, and `enter` steps aside for it.  A
thread of this process cannot: it sleeps at the mutex, and has to be woken before it can take it.  A
thread that lets go of the mutex and takes it again at once is always first, for seconds.
"""

from __future__ import annotations

from typing import Final, Protocol

from mq.storage.disk import Disk

GIVE_WAY_SECONDS: Final = 20e-6  # the system makes 80 of it: as long as it takes to wake a thread


class Shared(Protocol):
    """A store."""

    busy: set[int]
    """The threads that are inside an operation."""
    disk: Disk


def give_way(store: Shared) -> None:
    """Let the other threads of this process have the mutex first; called without it."""
    if len(store.busy) > 1:  # besides this thread
        store.disk.pause(GIVE_WAY_SECONDS)
