"""What the actions share: the queues, the call that is answered, and what the server remembers.

A `Call` is one request of a client, whichever protocol it spoke.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Receive, Scope

from mq.serve.face import HUNG_UP, Site
from mq.serve.sqs import names
from mq.serve.sqs.attempts import Attempts
from mq.serve.sqs.fault import missing
from mq.serve.sqs.queues import Queues, SqsQueue
from mq.serve.sqs.signatures import Headers, claimed

Answer = dict[str, Any]
Action = Callable[["Call", Any], Coroutine[Any, Any, Answer | None]]

ID_HEX: Final = 16  # of a store, in the ids of its messages
REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
DEFAULT_REGION: Final = "us-east-1"


class Service:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.settings = site.settings
        self.queues = Queues(site)
        self.attempts = Attempts()
        self.moves: dict[str, list[Any]] = {}  # the newest first, by the name of the source: see moving.py
        self._draining: asyncio.Task[Any] | None = None
        hex = site.broker.store_id[:ID_HEX]
        self.id_head = f"{hex[:8]}-{hex[8:12]}-{hex[12:]}"

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


@dataclass(slots=True)
class Call:
    """
    action     its name
    headers    of the request, by name
    """

    service: Service
    action: str
    scope: Scope
    headers: Headers
    receive: Receive

    @property
    def path(self) -> str:
        """In the Query protocol it names the queue, too."""
        path: str = self.scope["path"]
        return path

    @property
    def trace(self) -> str | None:
        """What X-Amzn-Trace-Id says."""
        trace = self.headers.get(b"x-amzn-trace-id")
        return trace.decode("latin-1") if trace else None

    @property
    def region(self) -> str:
        """That the client signed for."""
        region = claimed(self.scope, self.headers).region
        return region if REGION.fullmatch(region) else DEFAULT_REGION

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
        """By the scheme and host by which the client reached the server."""
        host = self.headers.get(b"host", b"").decode("latin-1")
        if not host:
            address, port = self.scope["server"]
            host = f"{address}:{port}"
        return f"{self.scope['scheme']}://{host}/{self.account}/{name}"

    def arn(self, name: str) -> str:
        return names.arn(self.region, self.account, name)

    def message_id(self, id: int) -> str:
        """A UUID, of the store and of the message's id in it."""
        low = f"{id:016x}"
        return f"{self.service.id_head}-{low[:4]}-{low[4:]}"

    def has_gone(self) -> bool:
        """Whether the client has hung up, as far as is known."""
        hung_up = self.scope.get("extensions", {}).get(HUNG_UP)
        return bool(hung_up and hung_up())

    async def gone(self) -> None:
        """Return when the client has hung up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
