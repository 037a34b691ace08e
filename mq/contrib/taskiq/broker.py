"""The broker: tasks are kicked into a queue of mq, and listened for by workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from logging import getLogger
from typing import Any, Final

from taskiq import AsyncBroker, BrokerMessage

from mq.aio.message import AsyncDelivery
from mq.api.broker import Sync
from mq.api.options import PublishOptions
from mq.contrib.settings import Settings
from mq.contrib.taskiq.holding import Hold, Taken
from mq.contrib.taskiq.store import Store
from mq.errors import Closed, CorruptStore, StaleReceipt, StorageError, StoreFailed, UsageError

logger = getLogger("taskiq.mq")

QUEUE: Final = "taskiq"
TICK_HEADER: Final = "taskiq-schedule"  # of what a schedule publishes: its id
REOPEN_SECONDS: Final = 1.0  # before a store that has failed is opened anew


class MqBroker(AsyncBroker):
    """A broker on a store of mq, which is opened at start-up, or when a task is first kicked.

    *place*: a URL (`mq:///data`, relative to the working directory; `mq:////var/data`; `?sync=0.1` and the
    other options below may follow), or the store's directory.
    *queue_name*: the queue that tasks go to without a label `queue_name`, and that workers listen to.
    *additional_queues*: other ones that workers listen to; one is asked when those before it are empty.
    *sync*: as of `mq.open`: "always" (the default), seconds, "never".
    *visibility_timeout*: seconds after which the tasks of a worker that died are delivered again; None (the
    default): as the queues have it, 30 at first.  A worker that lives keeps its tasks.
    *max_attempts*: N: a task whose worker died, or that ended without an ack, goes to the dead letters after
    so many attempts; None (the default): as the queues have it, for ever at first, with backoff.

    Raises UsageError.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, queue_name: str = QUEUE,
        additional_queues: Iterable[str] = (), sync: Sync | None = None,
        visibility_timeout: float | None = None, max_attempts: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.queue_name = queue_name
        self._listened = list(dict.fromkeys((queue_name, *additional_queues)))
        self.store = Store(
            Settings.of(place, sync=sync, visibility_timeout=visibility_timeout, max_attempts=max_attempts)
        )
        self._settling: set[asyncio.Task[None]] = set()  # what gives back messages that were forgotten

    def __repr__(self) -> str:
        return f"<MqBroker {self.store.settings.path}>"

    async def startup(self) -> None:
        """Open the store, and do what taskiq does.

        Raises StorageError.
        """
        await self.store.broker()
        await super().startup()

    async def shutdown(self) -> None:
        """Let go of the store.  What a worker still runs is delivered again after the visibility timeout."""
        await super().shutdown()
        if self._settling:
            await asyncio.wait(set(self._settling))
        await self.store.close()

    # ── kicking ────────────────────────────────────────────────────────────────────

    async def kick(self, message: BrokerMessage) -> None:
        """Store a task; under sync="always" it is on the disk when this returns.

        Raises DiskFull, QueueFull, UsageError (a label is wrong), StoreFailed, StorageError; taskiq makes
        them the cause of a SendTaskError.
        """
        options = publish_options(message.labels)
        async with self.store.renewing():
            queue = await self.store.queue(message.labels.get("queue_name") or self.queue_name)
            await queue.publish(message.message, **options)

    # ── listening ──────────────────────────────────────────────────────────────────

    async def listen(self) -> AsyncGenerator[Taken, None]:
        """Tasks as they come.  The store is opened anew if it fails."""
        while True:
            try:
                taken = await self._take()
            except CorruptStore as error:  # it counts as a failed attempt, and the next one is taken
                logger.error("A message is damaged: %s", error)
                await asyncio.sleep(0)
            except (StoreFailed, Closed) as error:
                logger.error("The store cannot be used, and is opened anew: %s", error)
                await asyncio.sleep(REOPEN_SECONDS)
            except StorageError as error:  # not closed: what runs would be kept no longer
                logger.error("No task can be taken, which is tried again: %s", error)
                await asyncio.sleep(REOPEN_SECONDS)
            else:
                if taken is not None:  # here is no reference to what is yielded: see Taken.__del__
                    yield Taken(*taken)

    async def _take(self) -> tuple[bytes, Hold] | None:
        """The next task, kept until it is settled; None: it was none, and went to the dead letters."""
        async with self.store.renewing() as broker:
            queues = [await self.store.queue(name) for name in self._listened]
            delivery = await broker.receive(queues)
            assert delivery
            # Not kept before: what cannot be refused now comes again after its visibility timeout.
            if (data := await self._data(delivery)) is None:
                return None
            broker.keep(delivery)
            return data, Hold(self.store, delivery.queue, delivery.receipt, self._settling)

    async def _data(self, delivery: AsyncDelivery[Any]) -> bytes | None:
        """What taskiq gets; None: it would ack it undone, so it went to the dead letters."""
        try:
            message = self.formatter.loads(delivery.raw)
        except Exception as error:  # noqa: BLE001  a formatter may raise anything
            await self._refuse(delivery, f"no message of taskiq: {error!r}")
            return None
        if self.find_task(message.task_name) is None:
            await self._refuse(delivery, f"no task has the name {message.task_name!r}")
            return None
        if not (schedule := delivery.headers.get(TICK_HEADER)):
            return delivery.raw
        message.task_id = f"{schedule}-{delivery.id}"  # of each tick its own, the same one if it comes again
        return self.formatter.dumps(message).message

    async def _refuse(self, delivery: AsyncDelivery[Any], reason: str) -> None:
        logger.error(
            "Message %d of queue %r goes to the dead letters: %s", delivery.id, delivery.queue, reason
        )
        with suppress(StaleReceipt):
            await delivery.reject(reason)


def publish_options(labels: dict[str, Any]) -> PublishOptions:
    """What labels say of a publish.  Raises UsageError."""
    options: PublishOptions = {}
    if delay := _number(labels, "delay"):
        options["delay"] = max(delay, 0.0)
    if priority := _number(labels, "priority"):
        options["priority"] = int(priority)
    return options


def _number(labels: dict[str, Any], name: str) -> float:
    try:
        return float(labels.get(name) or 0)
    except (TypeError, ValueError):
        raise UsageError(f"the label {name} is a number, not {labels[name]!r}") from None
