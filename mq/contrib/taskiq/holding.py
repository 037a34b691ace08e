"""What a worker has taken, and the right to settle it.

    listen ──► Taken ──► a task of the loop asks for its data or its `ack` ──► acked
                 │                                                         └──► it ends: a failed attempt
                 └──► dropped before that: released, for it was not tried

taskiq acks when the policy says so.  It does not say that it gives a message up: that a middleware has
raised, or that a task which acks by itself has not.  So what is not acked when the task of the loop ends that
had begun with it is settled here; without that it would stay with a worker as long as that lives.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from logging import getLogger
from typing import Any, Final

from taskiq import AckableMessage

from mq.api.message import Receipt
from mq.contrib.taskiq.store import Store
from mq.errors import Closed, MqError, StaleReceipt, StoreFailed

logger = getLogger("taskiq.mq")

NOT_ACKED: Final = "it was not acked: the log of its worker says why"


class Hold:
    """The right to settle one message, by its receipt: so a store that was opened anew takes it, too."""

    def __init__(self, store: Store, queue: str, receipt: Receipt, settling: set[asyncio.Task[None]]) -> None:
        self._store, self._queue, self._receipt = store, queue, receipt
        self._loop, self._settling = asyncio.get_running_loop(), settling
        self._is_begun = self._is_settled = False

    def begin(self) -> None:
        """By the task of the loop that runs now."""
        if not self._is_begun:
            self._is_begun = True
            if task := asyncio.current_task(self._loop):
                task.add_done_callback(self._ended)

    async def ack(self) -> None:
        self._is_settled = True
        await self._settle("ack_many")

    async def _settle(self, how: str, **given: Any) -> None:
        try:
            await self._try_to_settle(how, **given)
        except (Closed, StoreFailed):  # it is opened anew
            await self._try_to_settle(how, **given)

    async def _try_to_settle(self, how: str, **given: Any) -> None:
        try:
            async with self._store.renewing():
                queue = await self._store.queue(self._queue)
                await getattr(queue, how)([self._receipt], **given)
        except StaleReceipt as error:
            logger.warning("Settled too late, a message of queue %r: %s", self._queue, error)

    # ── not acked ──────────────────────────────────────────────────────────────────

    def dropped(self) -> None:
        """There is no reference to the message any more; called on any thread."""
        if not self._is_begun:
            with suppress(RuntimeError):  # the loop is closed: it comes back after its visibility timeout
                self._loop.call_soon_threadsafe(self._give_back, "release_many")

    def _ended(self, task: asyncio.Future[Any]) -> None:
        if not self._is_settled:
            self._give_back("nack_many", reason=NOT_ACKED)

    def _give_back(self, how: str, **given: Any) -> None:
        self._is_settled = True
        task = self._loop.create_task(self._settle_or_say(how, **given))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_or_say(self, how: str, **given: Any) -> None:
        try:
            await self._settle(how, **given)
        except MqError as error:
            logger.warning("A message of queue %r comes back later: %s", self._queue, error)


class Taken(AckableMessage):
    """A message that was taken.  To ask for its data or its ack is to begin with it."""

    def __init__(self, data: bytes, hold: Hold) -> None:
        super().__init__(data=data, ack=hold.ack)
        self.__dict__["_hold"] = hold

    def __getattribute__(self, name: str) -> Any:
        if name in ("data", "ack") and (hold := super().__getattribute__("__dict__").get("_hold")):
            hold.begin()
        return super().__getattribute__(name)

    def __del__(self) -> None:
        if hold := self.__dict__.get("_hold"):
            hold.dropped()
