"""One operation at a time for each thread.

A signal handler, a `__del__`, a weakref callback or a profile function may run in the
middle of an operation, in the same thread.  What it begins on the same store would find
locks held by the frames that it interrupted: it would wait for itself, or do its work in
the midst of theirs.  So a thread that is inside an operation is noted in `busy`, and what
it begins there is refused.

    me, busy = get_ident(), store.busy
    if me in busy:
        raise nested()
    try:
        busy.add(me)                 the first call inside the try
        …
    finally:
        busy.discard(me)             one call of C: nothing can interrupt it

publish, receive and ack write this out, and `Line.wait` (mq/engine/line.py) refuses for them; every other
operation is an `@operation`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mq.errors import UsageError
from mq.notes import Notes


class HasBusy(Protocol):
    busy: set[int]
    """The threads that are inside an operation."""
    notes: Notes
    """What they have to log."""


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=HasBusy)


def nested() -> UsageError:
    """The error for an operation that a thread begins inside another one."""
    return UsageError(
        "this thread is inside another operation of the same broker, so nothing was done; from a signal"
        " handler, a __del__ or a callback, set a flag (or call close()), and do the work in the main program"
    )


def operation(work: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """An operation on the store that is its first argument."""

    @wraps(work)
    def run(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        me, busy = get_ident(), store.busy
        if me in busy:
            raise nested()
        try:
            busy.add(me)
            return work(store, *args, **kwargs)
        finally:
            busy.discard(me)
            if store.notes.kept:
                store.notes.log()  # here, for the user's handler may begin an operation

    return run
