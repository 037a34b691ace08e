"""AsyncBroker: an open store, for the tasks of an event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from mq.api.broker import Broker, StoreStats, Sync
from mq.api.broker import open as open_broker
from mq.api.consumers import Consumers
from mq.api.options import (
    PublishOptions,
    QueueOptions,
    TopicOptions,
    check_many,
    check_options,
    check_seconds,
    check_topic_options,
)
from mq.api.queue import Queue
from mq.api.schedule import Missed, Schedule
from mq.api.transaction import Transaction
from mq.api.watch import Watch
from mq.engine import commands, retaining
from mq.errors import UsageError
from mq.workers.asked import Strategy, Wrap
from mq.workers.mailbox import Mailbox

from .lane import Lane, in_own_thread, undone_if_cancelled
from .loop import LoopLane
from .message import AsyncDelivery, released
from .queue import AsyncQueue
from .tasks import Tasks
from .topic import AsyncTopic
from .transaction import AsyncTransaction, inner_of
from .waiting import wait_for

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., object])


class AsyncBroker:
    """An open store for asyncio, made by `async with mq.aopen(path)` or `await mq.aopen(path)`.

    Each method is that of `mq.Broker`; what touches the store is awaited.  It may be used by tasks of one
    event loop at a time; in the child of a fork, by those of a new one.
    """

    def __init__(self, opening: Callable[[], Broker]) -> None:
        self._opening = opening
        self._opened: Broker | None = None
        self._lane_opened: Lane | None = None
        self._registered = Consumers(AsyncDelivery)

    @property
    def _broker(self) -> Broker:
        if self._opened is None:
            raise UsageError("it is not open yet: `async with mq.aopen(path) as broker:`, or await it")
        return self._opened

    @property
    def _lane(self) -> Lane:
        assert self._broker
        assert self._lane_opened
        return self._lane_opened

    def __repr__(self) -> str:
        return f"<Async{repr(self._opened)[1:]}" if self._opened else "<AsyncBroker not open yet>"

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        return await self._open()

    async def _open(self) -> Self:
        if self._opened is None:
            self._opened = await undone_if_cancelled(in_own_thread, self._opening, Broker.close)
            store = self._opened._store
            self._lane_opened = LoopLane(store) if store.ahead else Lane(store)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def path(self) -> str:
        """The store's directory, as an absolute path; or ":memory:"."""
        return self._broker.path

    @property
    def store_id(self) -> str:
        """What tells this store from all others: see `mq.Broker.store_id`."""
        return self._broker.store_id

    @property
    def generation(self) -> int:
        """What changes with what is declared: see `mq.Broker.generation`."""
        return self._broker.generation

    @overload
    def queue(self, name: str, *, type: type[T], **options: Unpack[QueueOptions]) -> AsyncQueue[T]: ...
    @overload
    def queue(self, name: str, *, type: Any = None, **options: Unpack[QueueOptions]) -> AsyncQueue[Any]: ...
    def queue(self, name: str, *, type: Any = None, **options: Unpack[QueueOptions]) -> AsyncQueue[Any]:
        """A handle on the queue *name*: see `mq.Broker.queue`.

        With options a thread declares the queue: what is awaited next waits for that, and raises what it
        raised.  A bad option is refused here.
        """
        checked = check_options(options)
        queue = self._broker.queue(name, type=type)
        if checked:
            self._lane.declare(partial(commands.declare, queue._store, queue._channel, checked))
        return AsyncQueue(queue, self._lane, self._new_watch)

    @overload
    def topic(self, name: str, *, type: type[T], **options: Unpack[TopicOptions]) -> AsyncTopic[T]: ...
    @overload
    def topic(self, name: str, *, type: Any = None, **options: Unpack[TopicOptions]) -> AsyncTopic[Any]: ...
    def topic(self, name: str, *, type: Any = None, **options: Unpack[TopicOptions]) -> AsyncTopic[Any]:
        """A handle on the topic *name*: see `mq.Broker.topic`.

        With options a thread declares the topic, as it does a queue.
        """
        checked = check_topic_options(options)
        topic = self._broker.topic(name, type=type)
        if checked:
            self._lane.declare(partial(retaining.declare, topic._store, topic.name, checked))
        return AsyncTopic(topic, self._lane)

    def _new_watch(self, notify: Callable[[], None]) -> Watch:
        return self._broker.watch(notify)

    async def receive(
        self, queues: Iterable[AsyncQueue[T]], timeout: float | None = None
    ) -> AsyncDelivery[T] | None:
        """Take the next message of the first of *queues* that has one: see `mq.Broker.receive`.

        Cancelled, it takes none; of at most once, see `AsyncQueue.receive`.
        """
        asked: list[Queue[Any]] = []
        for each in check_many("queues", queues):
            if not isinstance(each, AsyncQueue):
                raise UsageError(f"queues are queues of this broker, not {type(each).__name__}")
            asked.append(each._queue)
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        take: Any = partial(self._broker.receive, asked, 0)
        found: AsyncDelivery[T] | None = await wait_for(
            self._lane, self._new_watch, asked, take, released, until
        )
        return found

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        """Publishes, acks and nacks, all or nothing: see `mq.Broker.transaction`."""
        inner = Transaction(self._broker._store)
        try:
            yield AsyncTransaction(inner)
        except BaseException:
            inner._end()
            raise
        await self._lane.in_thread(inner._commit)

    # ── workers ────────────────────────────────────────────────────────────────────

    @property
    def _consumers(self) -> Consumers:
        assert self._broker
        return self._registered

    def _source(self, queue: str | AsyncQueue[Any], type: Any) -> Queue[Any]:
        """The queue that a consumer is of; *type*: of its bodies, if it is named."""
        inner = queue._queue if isinstance(queue, AsyncQueue) else queue
        found: Queue[Any] = self._broker._source(inner, type)
        return AsyncQueue(found, self._lane, self._new_watch)._queue

    def consumer(
        self, queue: str | AsyncQueue[Any], *, concurrency: int = 1, batch: int | None = None,
        linger: float = 0.0, prefetch: int | None = None, strategy: Strategy = "round_robin",
        extend: bool = True,
    ) -> Callable[[H], H]:  # fmt: skip
        """A decorator: `run` calls the function with what comes into *queue*: see `mq.Broker.consumer`.

        An `async def` runs as a task of the loop that awaits `run`, a `def` in a thread.  What the function
        may ask for in place of the body is an `mq.AsyncDelivery`.
        """
        return self._consumers.consumer(
            partial(self._source, queue), concurrency=concurrency, batch=batch, linger=linger,
            prefetch=prefetch, strategy=strategy, extend=extend,
        )  # fmt: skip

    def subscriber(self, pattern: str, *, group: str | None = None) -> Callable[[H], H]:
        """A decorator: `run` calls the function with what topics bring: see `mq.Broker.subscriber`.

        A thread subscribes, as it declares a queue.
        """
        return self._consumers.subscriber(self._source, pattern, group, self._lane.declare)

    def middleware(self, wrap: Wrap) -> None:
        """Have *wrap* called around every call of a handler: see `mq.Broker.middleware`."""
        self._consumers.middleware(wrap)

    async def run(self, *, grace: float = 30.0, until_empty: bool = False) -> None:
        """Call the consumers' functions, until SIGTERM, SIGINT or `close`: see `mq.Broker.run`.

        When the task is cancelled, it stops as it does after a signal; cancelled again, as after a second
        one.  It returns, or raises CancelledError, when no consumer holds a message any more.  SIGTERM and
        SIGINT are left to a program that handles them itself, as a web server does: it cancels the task.
        """
        await self._lane.declared()
        events: Mailbox[Any] = Mailbox()
        loop = Tasks(asyncio.get_running_loop(), self._lane, events)
        work = in_own_thread(
            partial(
                self._consumers.run, self._broker, grace, until_empty=until_empty, loop=loop, events=events
            ),
            daemon=True,
        )
        with loop.signals():
            cancelled = await _end_of(work, partial(events.put, signal.SIGTERM))
        if cancelled and not work.exception():
            raise cancelled
        work.result()

    def keep(self, delivery: AsyncDelivery[Any]) -> None:
        """Extend it until it is settled or the process ends: see `mq.Broker.keep`."""
        kept: Any = delivery
        self._broker.keep(kept)

    async def schedule(
        self, name: str, queue: str | AsyncQueue[Any] | AsyncTopic[Any], body: object, *,
        cron: str | None = None, every: float | None = None, tz: str = "UTC", missed: Missed = "one",
        **options: Unpack[PublishOptions],
    ) -> None:  # fmt: skip
        """Publish *body* to *queue* again and again: see `mq.Broker.schedule`."""
        await self._lane.in_thread(
            partial(
                self._broker.schedule, name, inner_of(queue), body, cron=cron, every=every, tz=tz,
                missed=missed, **options,
            )
        )  # fmt: skip

    async def unschedule(self, name: str) -> bool:
        """Take back the schedule *name*: see `mq.Broker.unschedule`."""
        return await self._lane.in_thread(partial(self._broker.unschedule, name))

    async def schedules(self) -> list[Schedule]:
        """All schedules, by name: see `mq.Broker.schedules`."""
        return await self._lane.in_thread(self._broker.schedules)

    async def queues(self, *, prefix: str = "", after: str = "", limit: int | None = None) -> list[str]:
        """The names of the queues, sorted: see `mq.Broker.queues`."""
        return await self._lane.in_thread(
            partial(self._broker.queues, prefix=prefix, after=after, limit=limit)
        )

    async def stats(self, queues: Iterable[str] | None = None) -> StoreStats:
        """What the whole store holds: see `mq.Broker.stats`."""
        return await self._lane.in_thread(partial(self._broker.stats, queues))

    async def topics(self) -> list[str]:
        """The topics that are known by name: see `mq.Broker.topics`."""
        return await self._lane.in_thread(self._broker.topics)

    async def subscriptions(self, topic: str | None = None) -> list[tuple[str, str]]:
        """All patterns of queues, each with the name of its queue: see `mq.Broker.subscriptions`."""
        return await self._lane.in_thread(partial(self._broker.subscriptions, topic))

    async def flush(self) -> None:
        """Return when all that was written is on the disk: see `mq.Broker.flush`."""
        await self._lane.in_thread(self._broker.flush)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the store to a directory: see `mq.Broker.backup`."""
        await self._lane.in_thread(partial(self._broker.backup, path))

    async def close(self) -> None:
        """Sync, and let go of the store: see `mq.Broker.close`."""
        if self._opened is not None:
            await self._lane.close(self._opened.close)


async def _end_of(
    work: asyncio.Future[None], stop: Callable[[], object]
) -> asyncio.CancelledError | None:  # fmt: skip
    """Return when *work* has ended, with the cancellation that came meanwhile; each one calls *stop*."""
    cancelled = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
            stop()
        except GeneratorExit:  # the loop was closed, and its tasks with it
            stop()
            stop()
            raise
    return cancelled


def aopen(
    path: str | os.PathLike[str], *, sync: Sync = "always", exclusive: bool = False, read_only: bool = False,
    recover: Literal["refuse", "salvage"] = "refuse", segment_bytes: int = 64 << 20,
    mode: int | None = None, clock: Callable[[], float] | None = None,
) -> AsyncBroker:  # fmt: skip
    """Open the store in the directory *path* for asyncio: `async with mq.aopen(path)`, or `await` it.

    *sync*, *exclusive*, *read_only*, *recover*, *segment_bytes*, *mode*, *clock*: as for `mq.open`.

    Raises, when it is entered or awaited, UsageError, StoreLocked, CorruptStore, Unsupported, StoreFailed and
    StorageError, as `mq.open` does.
    """
    return AsyncBroker(
        partial(
            open_broker, path, sync=sync, exclusive=exclusive, read_only=read_only, recover=recover,
            segment_bytes=segment_bytes, mode=mode, clock=clock,
        )
    )  # fmt: skip
