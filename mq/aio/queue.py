"""AsyncQueue: the handle on a queue, for tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from mq.api.message import Message, Receipt
from mq.api.options import (
    BatchOptions,
    Outgoing,
    PublishOptions,
    QueueOptions,
    check_count,
    check_many,
    check_seconds,
)
from mq.api.queue import Queue
from mq.api.watch import Watch
from mq.delivery.queue import State
from mq.engine import hot, looking
from mq.engine.at_once import arrives_settled
from mq.engine.bodies import encode_body
from mq.engine.looking import Stats
from mq.errors import Closed

from .lane import LARGE_BYTES, Lane
from .loop import AsyncLoop
from .message import AsyncDelivery, released
from .waiting import wait_for

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Held = Iterable[AsyncDelivery[Any] | Receipt]

LARGE_COUNT = 128  # messages that take longer than a turn of the event loop should
JOIN_SECONDS = 0.25  # at least so often a task that waits for an empty queue looks
LINGER_SECONDS = 0.02  # how often a task that waits for a fuller batch looks


class AsyncQueue(Generic[T]):
    """A handle on one queue, made by `broker.queue(name)`.  Each method is that of `mq.Queue`, awaited."""

    __contains__ = None
    _is_endless = True

    def __init__(self, queue: Queue[T], lane: Lane, new_watch: Callable[[Callable[[], None]], Watch]) -> None:
        self._queue = queue
        made: Any = queue
        made._delivery, made._face = AsyncDelivery, lane
        self._lane, self._new_watch = lane, new_watch

    def __repr__(self) -> str:
        return f"<Async{repr(self._queue)[1:]}"

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    # ── publishing ─────────────────────────────────────────────────────────────────

    async def publish(self, body: T, **options: Unpack[PublishOptions]) -> int:
        """Store one message, and return its id: see `mq.Queue.publish`.

        When the task is cancelled meanwhile, the message is there once, or not at all.
        """
        lane, queue = self._lane, self._queue
        flags, raw = encode_body(body)
        is_small, planned = len(raw) <= LARGE_BYTES, queue._channel.publish_needs_plan
        if is_small and not (options or planned) and lane.store.around is None:  # as below, without a layer
            if lane.store.together:
                id = await lane.publish(queue._channel, flags, raw)
            else:
                id = await lane.soon(hot.publish, lane.store, queue._channel, flags, raw)
            if id is not None:
                return id
        plain = None if planned else partial(hot.publish, lane.store, queue._channel, flags, raw)
        plan = partial(queue._publish_one, flags, raw)
        return await lane.send(self.name, plain, plan, options, is_small=is_small)

    async def publish_many(self, bodies: Iterable[T], **options: Unpack[BatchOptions]) -> list[int]:
        """Store all of *bodies*, or none of them: see `mq.Queue.publish_many`."""
        given: list[Any] = list(check_many("bodies", bodies))
        is_small = len(given) <= LARGE_COUNT and all(map(_is_small, given))
        plan = partial(self._queue._send_many, given)
        return await self._lane.send(self.name, None, plan, options, is_small=is_small)

    # ── receiving ──────────────────────────────────────────────────────────────────

    @overload
    async def receive(
        self, timeout: None = None, *, visibility_timeout: float | None = None
    ) -> AsyncDelivery[T]: ...
    @overload
    async def receive(
        self, timeout: float | None, *, visibility_timeout: float | None = None
    ) -> AsyncDelivery[T] | None: ...
    async def receive(
        self, timeout: float | None = None, *, visibility_timeout: float | None = None
    ) -> AsyncDelivery[T] | None:
        """Take the next message: see `mq.Queue.receive`.  Cancelled, it takes none.

        Of a queue with delivery="at_most_once" what a cancelled task had just taken is lost: it was settled
        before the task could have it.  There, limit the wait by *timeout*, which loses nothing.
        """
        queue: Any = self._queue
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        if visibility_timeout is not None:
            visibility_timeout = check_seconds("visibility_timeout", visibility_timeout)
        if not arrives_settled(queue._channel):  # as `wait_for` does, without two coroutines more
            found: AsyncDelivery[T] | None = await self._lane.soon(
                hot.receive, queue, 0.0, visibility_timeout, undo=released
            )
            if found is not None:
                return found
        take: Any = partial(hot.receive, queue, 0.0, visibility_timeout)
        found = await wait_for(self._lane, self._new_watch, (queue,), take, released, until)
        return found

    async def receive_many(
        self, limit: int, timeout: float | None = None, *, visibility_timeout: float | None = None,
        linger: float = 0.0, per_group: int | None = 1,
    ) -> list[AsyncDelivery[T]]:  # fmt: skip
        """Take up to *limit* messages: see `mq.Queue.receive_many`.

        Cancelled, it takes none; of at most once, see `receive`.
        """
        limit = check_count("limit", limit, least=1)
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        linger = check_seconds("linger", linger)
        per_group = None if per_group is None else check_count("per_group", per_group, least=1)
        take: Any = partial(
            self._queue.receive_many, limit, 0, visibility_timeout=visibility_timeout, per_group=per_group
        )
        if not linger:
            return await self._wait(take, released, until)
        ready = partial(looking.takable, self._queue._store, self._queue._channel, limit, per_group)
        found: list[AsyncDelivery[T]] = []
        while not found and await self._wait(ready, _nothing, until) > 0:
            if await self._gather(ready, limit, time.monotonic() + linger):
                found = await self._wait(take, released, 0.0)  # none if another receiver was quicker
        return found

    async def _gather(self, ready: Callable[[], int], limit: int, until: float) -> bool:
        """Wait until *limit* are ready, or until then, monotonic seconds; whether some are still there."""
        while 0 < (count := await self._lane.soon(ready)) < limit and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(LINGER_SECONDS, left))
        return count > 0

    async def _wait(self, take: Callable[[], R], undo: Callable[[R], object], until: float | None) -> R:
        return await wait_for(self._lane, self._new_watch, (self._queue,), take, undo, until)

    async def __aiter__(self) -> AsyncIterator[AsyncDelivery[T]]:
        """Deliveries, as `receive()` takes them, until the broker is closed."""
        loop = AsyncLoop(self._queue, self._lane) if self._lane.store.ahead else None
        try:
            while True:
                try:
                    delivery = await (loop.next(self.receive) if loop else self.receive())
                except Closed:
                    return
                yield delivery
        finally:
            if loop:
                loop.end()

    # ── settling ───────────────────────────────────────────────────────────────────

    async def ack_many(self, messages: Held, *, fenced: bool = True) -> None:
        """Ack all that can be acked: see `mq.Queue.ack_many`."""
        await self._settle(self._queue.ack_many, messages, fenced=fenced)

    async def nack_many(self, messages: Held, *, delay: float | None = None, reason: str = "") -> None:
        """Nack all that can be nacked: see `mq.Queue.nack_many`."""
        await self._settle(self._queue.nack_many, messages, delay=delay, reason=reason)

    async def release_many(self, messages: Held) -> None:
        """Release all that can be released: see `mq.Queue.release_many`."""
        await self._settle(self._queue.release_many, messages)

    async def reject_many(self, messages: Held, reason: str = "") -> None:
        """Reject all that can be rejected: see `mq.Queue.reject_many`."""
        await self._settle(self._queue.reject_many, messages, reason=reason)

    async def extend_many(self, messages: Held, seconds: float | None = None, *, fenced: bool = True) -> None:
        """Extend all that can be extended: see `mq.Queue.extend_many`."""
        await self._settle(self._queue.extend_many, messages, seconds=seconds, fenced=fenced)

    async def _settle(self, settle: Callable[..., None], messages: Held, **given: Any) -> None:
        several: list[Any] = list(check_many("messages", messages))
        run = self._lane.now if len(several) <= LARGE_COUNT else self._lane.in_thread
        await run(partial(settle, several, **given))

    # ── looking ────────────────────────────────────────────────────────────────────

    async def peek(self, limit: int = 10, *, state: State = "ready") -> list[Message[T]]:
        """The first *limit* messages in *state*: see `mq.Queue.peek`."""
        return await self._call(self._queue.peek, limit, state=state)

    async def get(self, id: int) -> Message[T] | None:
        """The message with this *id*: see `mq.Queue.get`."""
        return await self._call(self._queue.get, id)

    async def stats(self) -> Stats:
        """How many messages are where: see `mq.Queue.stats`."""
        return await self._call(self._queue.stats)

    async def options(self) -> QueueOptions:
        """The options in force: see `mq.Queue.options`."""
        return await self._call(self._queue.options)

    async def meta(self) -> Mapping[str, str]:
        """The texts that a program keeps with the queue: see `mq.Queue.meta`."""
        return await self._call(self._queue.meta)

    async def update_meta(
        self, changes: Mapping[str, str | None], *, expect: Mapping[str, str | None] | None = None
    ) -> bool:
        """Change texts that a program keeps with the queue: see `mq.Queue.update_meta`."""
        return await self._call(self._queue.update_meta, changes, expect=expect)

    # ── what waits ─────────────────────────────────────────────────────────────────

    async def cancel(self, id: int) -> bool:
        """Drop the message *id*, if it waits: see `mq.Queue.cancel`."""
        return await self._call(self._queue.cancel, id)

    async def reschedule(self, id: int, *, delay: float = 0, at: datetime | None = None) -> bool:
        """Have the message *id* be ready at another time: see `mq.Queue.reschedule`."""
        return await self._call(self._queue.reschedule, id, delay=delay, at=at)

    async def purge(self, *, in_flight: bool = False) -> int:
        """Drop all messages that wait or are delayed: see `mq.Queue.purge`."""
        return await self._call(self._queue.purge, in_flight=in_flight)

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until the queue is empty: see `mq.Queue.join`."""
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        nap = 0.01
        while not await self._call(self._queue.join, 0):
            left = nap if until is None else until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(nap, left))
            nap = min(2 * nap, JOIN_SECONDS)
        return True

    async def replay(self, ids: Iterable[int] | None = None, *, to: str | None = None) -> int:
        """Move dead letters back to where they died: see `mq.Queue.replay`."""
        return await self._call(self._queue.replay, ids, to=to)

    async def subscribe(
        self, pattern: str, *, match: Mapping[str, str] | None = None, since: int | datetime | None = None
    ) -> None:
        """Have what is published to topics that match *pattern* come here: see `mq.Queue.subscribe`."""
        await self._call(self._queue.subscribe, pattern, match=match, since=since)

    async def unsubscribe(self, pattern: str) -> bool:
        """The opposite: see `mq.Queue.unsubscribe`."""
        return await self._call(self._queue.unsubscribe, pattern)

    async def subscriptions(self) -> list[str]:
        """The patterns of this queue: see `mq.Queue.subscriptions`."""
        return await self._call(self._queue.subscriptions)

    async def pause(self) -> None:
        """Deliver nothing more until `resume`: see `mq.Queue.pause`."""
        await self._call(self._queue.pause)

    async def resume(self) -> None:
        """Deliver again, after `pause`: see `mq.Queue.resume`."""
        await self._call(self._queue.resume)

    async def rename(self, name: str) -> None:
        """Give the queue another name: see `mq.Queue.rename`."""
        await self._call(self._queue.rename, name)

    async def delete(self) -> None:
        """Delete the queue, with all it holds: see `mq.Queue.delete`."""
        await self._call(self._queue.delete)

    async def _call(self, do: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        return await self._lane.in_thread(partial(do, *given, **named))


def _is_small(body: object) -> bool:
    if isinstance(body, Outgoing):
        body = body.body
    return not isinstance(body, (bytes, bytearray, memoryview, str)) or len(body) <= LARGE_BYTES


def _nothing(_: object) -> None:
    """Of what took nothing there is nothing to give back."""
