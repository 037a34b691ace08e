"""AsyncTransaction: what is buffered, for tasks."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, overload

from mq.api.message import Receipt
from mq.api.options import PublishOptions
from mq.api.transaction import Transaction

from .message import AsyncDelivery
from .queue import AsyncQueue
from .topic import AsyncTopic

T = TypeVar("T")


class AsyncTransaction:
    """Publishes, acks and nacks that happen together: `async with broker.transaction() as tx:`.

    Its methods buffer, and are not awaited.  See `mq.Transaction`.
    """

    def __init__(self, inner: Transaction) -> None:
        self._inner: Any = inner

    @property
    def ids(self) -> list[int]:
        """The ids of the publishes, in order; empty until the end of the block."""
        return list(self._inner.ids)

    @overload
    def publish(
        self, to: AsyncQueue[T] | AsyncTopic[T], body: T, **options: Unpack[PublishOptions]
    ) -> None: ...
    @overload
    def publish(self, to: str, body: object, **options: Unpack[PublishOptions]) -> None: ...
    def publish(self, to: Any, body: Any, **options: Unpack[PublishOptions]) -> None:
        """Publish *body* to the queue *to* if the transaction commits: see `mq.Transaction.publish`."""
        self._inner.publish(inner_of(to), body, **options)

    def ack(self, message: AsyncDelivery[Any] | Receipt) -> None:
        """Ack *message* if the transaction commits: see `mq.Transaction.ack`."""
        self._inner.ack(message)

    def nack(
        self, message: AsyncDelivery[Any] | Receipt, *, delay: float | None = None, reason: str = ""
    ) -> None:
        """Nack *message* if the transaction commits: see `mq.Transaction.nack`."""
        self._inner.nack(message, delay=delay, reason=reason)


def inner_of(to: Any) -> Any:
    """What the handle of tasks stands on; anything else as it is."""
    if isinstance(to, AsyncQueue):
        return to._queue
    return to._topic if isinstance(to, AsyncTopic) else to
