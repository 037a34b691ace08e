"""What the actions share: the queues, the call that is answered, and what the server remembers.

A `Call` is one request of a client, whichever protocol it spoke.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from mq.serve.face import Site
from mq.serve.sqs import names
from mq.serve.sqs.attempts import Attempts
from mq.serve.sqs.fault import missing
from mq.serve.sqs.queues import Queues, SqsQueue

Answer = dict[str, Any]
Action = Callable[["Call", Any], Coroutine[Any, Any, Answer | None]]

ID_HEX: Final = 16  # of a store, in the ids of its messages


class Service:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.settings = site.settings
        self.queues = Queues(site)
        self.attempts = Attempts()
        self.moves: dict[str, list[Any]] = {}  # the newest first, by the name of the source: see moving.py
        self._draining: asyncio.Task[Any] | None = None
        self.store_hex = site.broker.store_id[:ID_HEX]

    def draining(self) -> asyncio.Task[Any]:
        """Is done once the server is to end."""
        if self._draining is None:
            self._draining = asyncio.create_task(self.site.stopping.wait())
        return self._draining

    async def drain(self) -> None:
        """At the end of the server, its move tasks end."""
        await self.site.stopping.wait()
        for move in [each for moves in self.moves.values() for each in moves if each.task]:
            move.task.cancel()


@dataclass
class Call:
    """
    base      scheme and host by which the client reached the server
    region    that it signed for
    path      of the request: in the Query protocol it names the queue, too
    trace     of the header X-Amzn-Trace-Id, if there was one
    gone      returns when the client has hung up
    """

    service: Service
    action: str
    base: str
    region: str
    path: str
    trace: str | None
    gone: Callable[[], Coroutine[Any, Any, None]]

    @property
    def account(self) -> str:
        return self.service.settings.account

    async def queue(self, url: str | None) -> SqsQueue:
        return await self.service.queues.find(self.name_in(url))

    def name_in(self, url: str | None) -> str:
        """SQS's name of the queue that is meant."""
        if not url and self.path.strip("/") == "":
            raise missing("QueueUrl")
        return names.of_url(url or self.path)

    def url(self, name: str) -> str:
        return f"{self.base}/{self.account}/{name}"

    def arn(self, name: str) -> str:
        return names.arn(self.region, self.account, name)

    def message_id(self, id: int) -> str:
        """A UUID, of the store and of the message's id in it."""
        text = self.service.store_hex
        low = f"{id:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:]}-{low[:4]}-{low[4:]}"
