"""`async for message in queue`, where the ack of a message takes the next one along (mq/engine/ahead.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple

from mq.api.loop import hand_out
from mq.engine.ahead import Ahead
from mq.engine.together import AckAndTake

from .lane import Lane
from .message import AsyncDelivery, released

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Given = TypeVarTuple("Given")


class LoopLane(Lane):
    """What a task does beside its loop is done without the message that the loop has taken."""

    async def soon(
        self, do: Callable[[*Given], T], *given: *Given, undo: Callable[[T], object] | None = None
    ) -> T:
        await self._give_back_first()
        return await super().soon(do, *given, undo=undo)

    async def in_thread(self, do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        await self._give_back_first()
        return await super().in_thread(do, undo)

    async def _give_back_first(self) -> None:
        if (aheads := self.store.ahead) and aheads.waiting:
            task = asyncio.current_task()
            if any(loop.owner is task for loop in list(aheads.waiting)):
                await self.beside(partial(aheads.first, task))


class AsyncLoop:
    def __init__(self, queue: Any, lane: Lane) -> None:
        """*queue*: that of the threads' face."""
        self._queue, self._lane = queue, lane
        self._ahead: Ahead = lane.store.ahead.loop(queue._channel)  # type: ignore[union-attr]

    async def next(self, receive: Callable[[], Any]) -> LoopDelivery[Any]:
        found = None
        if self._ahead.comes():
            found = await self._lane.beside(partial(hand_out, self._queue, self._ahead), released)
        if found is None:
            found = await receive()
        self._ahead.came(found._lsn, asyncio.current_task())
        fields = found._flight, found._flags, found._created_ms, found.raw, found._more
        return LoopDelivery(found._queue, found.id, *fields, _loop=self)

    async def ack(self, message: AsyncDelivery[Any]) -> None:
        """See `AsyncDelivery.ack`."""
        with self._ahead.acking(message, asyncio.current_task()) as is_current:
            if is_current and self._ahead.is_prompt:
                await self._lane.ack(message, AckAndTake(self._queue._channel, message, self._ahead))
            else:
                await self._lane.ack(message)

    def end(self) -> None:
        """It is left."""
        self._ahead.is_over = True
        if self._ahead.comes():
            self._lane.later(self._ahead.end)


class LoopDelivery(AsyncDelivery[T_co], eq=False, gc=False):
    """What a loop hands out whose next message comes with the ack."""

    _loop: Any = None

    async def ack(self) -> None:
        """See `AsyncDelivery.ack`."""
        await self._loop.ack(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._is_left:
            await self.ack()
        else:
            await AsyncDelivery.__aexit__(self, kind, error, trace)
