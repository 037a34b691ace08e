"""Loop: `for message in queue`, where the ack of a message takes the next one along (mq/engine/ahead.py)."""

from __future__ import annotations

from contextlib import suppress
from threading import get_ident
from typing import Any, Final, Generic, TypeVar

from mq.api.message import Delivery, LoopDelivery
from mq.engine import ahead, hot, receiving
from mq.engine.handle import D, Handle
from mq.errors import CorruptStore

T = TypeVar("T")


def hand_out(queue: Handle[D], loop: ahead.Ahead) -> D | None:
    """The delivery that the *loop* has taken, if it has, and it is still to be had."""
    taken = loop.hand_out()
    return receiving.hand_out(queue, *taken) if taken else None


class Loop(Generic[T]):
    def __init__(self, queue: Handle[Delivery[T]], aheads: ahead.Aheads) -> None:
        self._queue: Final = queue
        self._ahead: Final = aheads.loop(queue._channel)

    def next(self) -> Delivery[T]:
        found = hand_out(self._queue, self._ahead) if self._ahead.comes() else None
        if found is None:
            found = hot.receive(self._queue, None, None)
        assert found
        self._ahead.came(found._lsn, get_ident())
        fields = found._flight, found._flags, found._created_ms, found.raw, found._more
        return LoopDelivery(found._queue, found.id, *fields, _loop=self)

    def ack(self, message: Any) -> None:
        """See `Delivery.ack`."""
        with self._ahead.acking(message, get_ident()) as is_current:
            if not (is_current and self._ahead.ack_and_take(message)):
                hot.ack(message)

    def end(self) -> None:
        """It is left."""
        self._ahead.end()


def ack_and_take(queue: Handle[Delivery[T]], message: Any) -> Delivery[T] | None:
    """Ack *message*, for a program that receives again at once; the next one, if it came in the same append.

    Only if that costs nothing: None also where something is to be waited for, or an ack takes none along.
    """
    if not (aheads := queue._store.ahead):
        hot.ack(message)
        return None
    loop = aheads.loop(queue._channel)
    loop.is_prompt = True
    if not loop.ack_and_take(message):
        hot.ack(message)
    found = None
    with suppress(CorruptStore):  # it is set aside, and noted
        found = hand_out(queue, loop)
    return found
