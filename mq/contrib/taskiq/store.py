"""The store of a broker: opened for asyncio when it is first needed, and anew after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import mq
from mq.aio.broker import AsyncBroker
from mq.aio.queue import AsyncQueue
from mq.contrib.settings import Settings
from mq.errors import Closed, MqError, StoreFailed


class Store:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._broker: AsyncBroker | None = None
        self._opening: asyncio.Future[AsyncBroker] | None = None  # by the first of the tasks that need it
        self._queues: dict[str, AsyncQueue[Any]] = {}  # of that broker

    async def broker(self) -> AsyncBroker:
        """Raises StorageError."""
        if self._broker is None:
            if self._opening is None:
                self._opening = asyncio.ensure_future(self._open())
            await asyncio.shield(self._opening)
        assert self._broker
        return self._broker

    async def _open(self) -> AsyncBroker:
        try:
            self._broker = await mq.aopen(self.settings.path, sync=self.settings.sync)
            self._queues = {}
            return self._broker
        finally:
            self._opening = None

    async def queue(self, name: str) -> AsyncQueue[Any]:
        """The queue of that name, declared as the settings say."""
        broker = await self.broker()
        if (found := self._queues.get(name)) is None:
            found = self._queues[name] = broker.queue(name, **self.settings.queue_options())
        return found

    @asynccontextmanager
    async def renewing(self) -> AsyncGenerator[AsyncBroker, None]:
        """A block with a broker that is let go of if it fails, so that the next operation opens one anew."""
        broker = await self.broker()
        try:
            yield broker
        except (StoreFailed, Closed):
            if broker is self._broker:  # else it was opened anew since, and that one keeps what was taken
                await self.close()
            raise

    async def close(self) -> None:
        """Let go of it.  It is opened again when it is needed."""
        broker, self._broker = self._broker, None
        if broker:
            with suppress(MqError):  # it has failed before, and said so
                await broker.close()
