"""Receipts: the right to settle one delivery, as text, and what a caller gives to settle.

    3-81264-90112-c0ffee0001      the queue's number, the message's id, the position of its delivery,
                                  and which store

Any process can settle with it, also after a restart.  The last part tells this store's receipts from
another's, and from those of a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mq import exact
from mq.api.message import Leased, Receipt
from mq.api.options import check_many
from mq.engine.channel import Channel
from mq.engine.settling import NO_DELIVERY, Claim, Claims
from mq.engine.store import Store
from mq.errors import UsageError

TAG_CHARS: Final = 6  # of the last part: which store; what follows is the log's epoch


def claim_of(message: Leased[Any] | Receipt, store: Store, *, fenced: bool = True) -> Claim:
    """The claim; UsageError if it is none, or another store's.

    Not *fenced*: only the id will be looked at, so the receipt has to be of this history of the store.
    """
    if exact.is_a(message, Leased):
        delivery: Leased[Any] = message
        queue = delivery._queue
        if queue._store is not store:  # its receipt may be another delivery's here
            raise UsageError(f"message {delivery.id} was received through another broker; settle it there")
        return Claim(delivery, queue._channel, delivery.id, delivery._lsn)
    try:
        text = exact.text("a receipt", message)
        *numbers, tag = text.split("-")
        number, id, receipt = map(int, numbers)
    except ValueError:  # of int(), of the unpacking, and UsageError is one
        what = exact.shown(str.__str__(message)) if exact.is_a(message, str) else exact.kind(message)
        raise UsageError(f"{what} is neither a delivery nor a receipt") from None
    if tag == store.tag or (fenced and tag == store.tag[:TAG_CHARS]):  # of an older mq, which knew no epoch
        return Claim(None, number, id, receipt)
    if tag[:TAG_CHARS] == store.tag[:TAG_CHARS]:
        return Claim(None, number, id, NO_DELIVERY)  # from before the store was copied, or restored
    raise UsageError(f"the receipt {exact.shown(text)} is another store's; settle it there")


def claims_of(
    messages: Iterable[Leased[Any] | Receipt], store: Store, *, fenced: bool = True
) -> Claims:  # fmt: skip
    return Claims(claim_of(message, store, fenced=fenced) for message in check_many("messages", messages))


def channel_of(messages: list[Any], store: Store) -> Channel | None:
    """Of *messages*, if all are deliveries of one queue of the store, and nothing but their bodies."""
    kinds = set(map(type, messages))
    if len(kinds) != 1 or not issubclass(kinds.pop(), Leased) or messages[0]._queue._store is not store:
        return None
    queues = [each._queue for each in messages]
    if queues.count(queues[0]) == [each._more for each in messages].count(None) == len(queues):
        return queues[0]._channel  # type: ignore[no-any-return]
    return None
