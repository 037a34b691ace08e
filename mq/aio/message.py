"""AsyncDelivery: a message, and the right to settle it."""

from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from mq.api.message import Leased
from mq.engine import hot
from mq.errors import Closed, StaleReceipt

from .lane import Lane

T_co = TypeVar("T_co", covariant=True)


class AsyncDelivery(Leased[T_co], eq=False, gc=False):
    """A message and the right to settle it: what an async `receive` returns.  See `mq.Delivery`.

    With `async with`: ack at the end; on an Exception nack; when the task is cancelled, release; always
    raises the exception again.
    """

    @property
    def _lane(self) -> Lane:
        return self._queue._face  # type: ignore[no-any-return]

    async def ack(self) -> None:
        """Done: the message is gone.  Raises StaleReceipt, Closed."""
        if self._lane.store.together:
            await self._lane.ack(self)
        else:
            await self._lane.now(hot.ack, self)

    async def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Failed: see `mq.Delivery.nack`.  Raises StaleReceipt, UsageError, Closed."""
        await self._lane.now(self._queue._nack, self, delay, reason)

    async def release(self) -> None:
        """Not tried: see `mq.Delivery.release`.  Raises StaleReceipt, Closed."""
        await self._lane.now(self._queue._release, self)

    async def reject(self, reason: str = "") -> None:
        """Never to be tried again: see `mq.Delivery.reject`.  Raises StaleReceipt, UsageError, Closed."""
        await self._lane.now(self._queue._reject, self, reason)

    async def extend(self, seconds: float | None = None) -> None:
        """Keep it for longer: see `mq.Delivery.extend`.  Raises StaleReceipt, UsageError, Closed."""
        await self._lane.now(self._queue._extend, self, seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lane.now(self._end, error)


def released(found: Any) -> None:
    """Give back what a cancelled task was to be given."""
    messages = found if isinstance(found, list) else [found]
    if rest := [each for each in messages if each is not None and not each._settled]:
        with suppress(StaleReceipt, Closed):
            rest[0]._queue.release_many(rest)
