"""A fork in the handler of a signal, while its thread waits for a store's mutex.

    main thread     waits for the mutex ── a signal ── its handler forks ── goes on waiting
    another one     has let go of it            a third one is just being handed it

The wait goes on in the child, on the same lock.  A lock that was just being handed to a
thread of the parent is locked in the child and names no owner, so nothing there can let go
of it, and the child would wait for ever.  So the thread that forks takes the mutex first,
and lets go of it behind the fork, in both processes.

Only such a thread does so.  A fork anywhere else takes no lock: it would have to wait for
other threads, which may wait for locks that other libraries hold over a fork.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import methodcaller
from threading import get_ident
from typing import Any, Final, Protocol

FORK_SECONDS: Final = 1.0  # for the threads that have the mutex; longer than any but one that is stuck


class Forked(Protocol):
    mutex: Any  # an RLock: its name is a function's for the type checker
    busy: set[int]
    """The threads that are inside an operation."""


class Taken:
    """The mutexes that threads hold over their forks."""

    def __init__(self) -> None:
        self._by_thread: dict[int, tuple[list[Any], list[bool]]] = {}

    def take(self, stores: Iterable[Forked]) -> None:
        """Before a fork: take each mutex that this thread may be waiting for, if it can be had soon."""
        me = get_ident()
        mutexes = [each.mutex for each in stores if me in each.busy and not each.mutex._is_owned()]
        if mutexes:
            had: list[bool] = []
            self._by_thread[me] = mutexes, had
            # One call of C, which an exception out of another handler leaves with all that was taken.
            had.extend(map(methodcaller("acquire", True, FORK_SECONDS), mutexes))

    def let_go(self) -> None:
        """Behind the fork, in the parent and in the child."""
        for mutex, taken in zip(*self._by_thread.pop(get_ident(), ([], [])), strict=False):
            if taken:
                mutex.release()
