"""A fork in the handler of a signal, while its thread waits for a lock of a store.

What else a child does is in mq/engine/child.py.

    main thread     waits for the lock ── a signal ── its handler forks ── goes on waiting
    another one     has it, or has let go of it        a third one is just being handed it

The wait goes on in the child, on the same lock, and the thread that would let go of it is
not there.  So all locks for which a thread may wait inside an operation are RLocks, which
know their owner, and a store lists them in the order in which its threads take them:

    before      the thread that forks takes those that it may be waiting for, if they can be had
    in both     it lets go of them
    in child    those that are another thread's are let go of, and the store goes on with new ones

The first step, before the fork, is for a lock that was just being handed to a thread of the
parent: it is locked in the child and names no owner, so that nothing there can let go of it.

Before that, it lets the threads begin that it may just be starting: Thread.start waits until
they say so, and they are not in the child.

Only a thread that is inside an operation does so.  A fork anywhere else takes no lock: it
would have to wait for other threads, which may wait for locks that other libraries hold over
a fork.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat
from threading import RLock, get_ident
from typing import Any, Final, Protocol

FORK_SECONDS: Final = 1.0  # for the threads that have a lock; longer than any but one that is stuck

Lock = Any  # an RLock: the type checker knows neither that name nor `_is_owned`
_acquire: Final = type(RLock()).acquire


class Forked(Protocol):
    @property
    def busy(self) -> set[int]:
        """The threads that are inside an operation."""

    def locks(self) -> list[tuple[Lock, float]]:
        """Those for which its threads may wait, in the order in which they take them.

        And for how many seconds a fork waits for each.
        """

    def let_threads_begin(self, seconds: float) -> None:
        """Return when no thread here is about to begin, or after so long."""


class Taken:
    """The locks that threads hold over their forks."""

    def __init__(self) -> None:
        # Of each thread, the last fork last: a handler may come, and fork, while another one does.
        self._by_thread: dict[int, list[tuple[list[Lock], list[bool]]]] = {}

    def take(self, stores: Iterable[Forked]) -> None:
        """Before a fork: take each lock that this thread may be waiting for, if it can be had soon."""
        me = get_ident()
        stores = [store for store in stores if me in store.busy]
        for store in stores:
            store.let_threads_begin(FORK_SECONDS)
        taking = [each for store in stores for each in _behind_own(store.locks())]
        locks, seconds = [lock for lock, _ in taking], [each for _, each in taking]
        had: list[bool] = []
        self._by_thread.setdefault(me, []).append((locks, had))
        # One call of C, which an exception out of another handler leaves with all that was taken.
        had.extend(map(_acquire, locks, repeat(True), seconds))

    def let_go(self) -> None:
        """Behind the fork, in the parent and in the child."""
        me = get_ident()
        if forks := self._by_thread.get(me):
            locks, had = forks.pop()
            for lock, taken in zip(locks, had, strict=False):
                if taken:
                    lock.release()
            if not forks:
                del self._by_thread[me]


def _behind_own(locks: list[tuple[Lock, float]]) -> list[tuple[Lock, float]]:
    """A thread waits for no lock that comes before one that it has."""
    owned = [number for number, (lock, _) in enumerate(locks, 1) if lock._is_owned()]
    return locks[owned[-1] :] if owned else locks


def free(locks: Iterable[Lock]) -> None:
    """In a child: let go of those that no thread here has.  They are not used again.

    A thread that waits for one, and forked in the handler of a signal, goes on waiting here.
    """
    for lock in locks:
        if not lock._is_owned():
            with suppress(RuntimeError):  # no thread has it
                lock._release_save()  # of any thread: `release` does not


def is_held(lock: Lock) -> bool:
    """Whether a thread has it, perhaps this one.

    One call of C: an exception out of a signal's handler cannot leave it taken.  (With the locks of gevent
    it is none, which want all three arguments.)
    """
    taken = filter(None, map(lock.acquire, (False,)))
    return lock._is_owned() or not list(map(lock.__exit__, taken, (None,), (None,)))
