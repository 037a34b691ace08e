"""What an event loop may do itself: a turn that waits for no thread, no process and no disk."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Final, TypeVar, TypeVarTuple

from mq.engine.channel import Channel
from mq.engine.store import Store

Given = TypeVarTuple("Given")
T = TypeVar("T")
LONG_BYTES: Final = 64 << 10  # of bodies: to read more takes longer than a turn of an event loop should


class Busy:
    """Stands for a result: it would have had to wait, and nothing was done."""


BUSY: Final = Busy()
NOTHING_TO_UNLOCK: Final[Callable[[], object]] = int


def at_once(store: Store, do: Callable[[*Given], T], *given: *Given) -> tuple[T | Busy, int]:
    """Do it if nothing is in the way; what it returned, and up to where the log is owed to the disk.

    0: it owes nothing.
    """
    turn, me = store.turn, get_ident()
    if me in store.busy:
        return do(*given), 0  # which is refused, inside of another operation, and that one has the turn
    mutex, owing, unlock = turn.mutex, store.owing, NOTHING_TO_UNLOCK
    if not mutex.acquire(False):
        return BUSY, 0
    try:
        try:
            unlock = turn.unlock()
            if not turn.is_free():
                return BUSY, 0
            owing[me] = 0
            result = do(*given)
            return result, owing[me]
        finally:
            owing.pop(me, None)
            unlock()
    finally:  # also if the handler of a signal raised behind one of those calls
        mutex.release()


def in_turn(store: Store, do: Callable[[*Given], T], *given: *Given) -> tuple[T, int]:
    """The same in a thread that waits for its turn, and leaves it to others to wait for the disk."""
    owing, me = store.owing, get_ident()
    with store.turn.mutex:
        try:
            owing[me] = 0
            result = do(*given)
            return result, owing[me]
        finally:
            owing.pop(me, None)


def arrives_settled(channel: Channel) -> bool:
    """Whether what is received there is handed over once the disk has it, which is to be waited for."""
    state = channel.state
    return state is not None and state.delivery_needs_plan
