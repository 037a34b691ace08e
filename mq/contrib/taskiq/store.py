"""The store of a broker: opened for asyncio when it is first needed, and anew after a failure."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import mq
from mq.aio.broker import AsyncBroker
from mq.aio.queue import AsyncQueue
from mq.contrib.settings import Settings
from mq.errors import MqError


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

    async def close(self) -> None:
        """Let go of it.  It is opened again when it is needed."""
        broker, self._broker = self._broker, None
        if broker:
            with suppress(MqError):  # it has failed before, and said so
                await broker.close()
