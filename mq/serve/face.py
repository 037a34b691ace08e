"""What a face is given, and what it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.routing import Route
from starlette.types import ASGIApp

from mq import AsyncBroker, Broker
from mq.serve.credentials import Credentials
from mq.serve.settings import Settings

RESPOND: Final = "mq.respond"
"""The extension of ASGI that sends a whole response: status, lines of headers, body."""

HUNG_UP: Final = "mq.hung_up"
"""The extension of ASGI that says, without waiting, whether the connection has ended."""


@dataclass
class Site:
    """One server, as its faces see it.

    broker         open; the server closes it after all else has ended
    credentials    None: any client may do all
    stopping       is set at SIGTERM: what waits for messages, or sends events, ends then
    started_at     seconds since 1970
    """

    broker: AsyncBroker
    settings: Settings
    credentials: Credentials | None
    started_at: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def plain_broker(self) -> Broker:
        """The same store, for threads."""
        return self.broker._broker


@dataclass
class Face:
    """
    routes    with absolute paths; the first that fits is taken
    rest      answers what begins with no word that a route begins with; one face at most has it
    tasks     run while the server does, and are cancelled at its end; one that raises is logged
    """

    routes: Sequence[Route] = ()
    rest: ASGIApp | None = None
    tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
