"""The log of a store on NATS, which is looked into, and into whose appends others come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mq
from mq.nats.log import StreamLog
from mq.nats.message import head_of


def log_of(face: mq.Broker | mq.Queue[Any]) -> StreamLog:
    log: Any = face._store.replica.log
    return log  # type: ignore[no-any-return]


def flags_of(broker: mq.Broker) -> list[int]:
    """Of the messages of the stream."""
    log = log_of(broker)
    there = log._stream.range()
    return [head_of(log.pages.get(seq)).flags for seq in range(there.first, there.last + 1)]


@contextmanager
def meanwhile(broker: mq.Broker, do: Callable[[], object]) -> Iterator[None]:
    """The next append of this *broker* is decided; before it is sent, *do* happens."""
    sending = log_of(broker)._sending

    def first(send: Callable[..., Any]) -> Callable[..., Any]:
        def send_behind(*given: Any) -> Any:
            del sending.share, sending.send
            do()
            return send(*given)

        return send_behind

    sending.share, sending.send = first(sending.share), first(sending.send)  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(sending).pop("share", None), vars(sending).pop("send", None)


class Taker:
    """A loop that goes on at once: its ack takes the next message along."""

    is_over = False

    def __init__(self) -> None:
        self.taken: list[int] = []

    def took(self, id: int, flight: object) -> None:
        self.taken.append(id)
