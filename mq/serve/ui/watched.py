"""/metrics for Prometheus, and /healthz for what starts and watches the server."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mq import MqError
from mq.engine.health import health
from mq.serve import spared
from mq.serve.face import Site
from mq.serve.ui.desk import Busy, Desk
from mq.serve.ui.gate import Gate
from mq.serve.ui.sessions import Sessions, TooMany, address_of_client

if TYPE_CHECKING:
    from mq.metrics import Collector

FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
SCRAPE_SECONDS: Final = 30.0
KEPT_SECONDS: Final = 1.0  # for which a scrape is given out again
HEALTH_SECONDS: Final = 3.0


class Metrics:
    """`mq.metrics` over HTTP, made with the first scrape: nothing is timed for a server that has none."""

    def __init__(self, site: Site, desk: Desk, sessions: Sessions) -> None:
        self._site, self._desk, self._sessions = site, desk, sessions
        self._lock = asyncio.Lock()
        self._collector: Collector | None = None
        self._scraped, self._text = 0.0, b""

    async def answer(self, request: Request) -> Response:
        visitor = self._sessions.visitor(request)
        said = request.headers.get("authorization", "")
        try:
            may_see = self._sessions.may_enter(visitor) or await self._sessions.has_basic(
                said, address_of_client(request)
            )
        except TooMany as error:
            return Response(f"{error}\n", 429, {"retry-after": str(math.ceil(error.seconds))})
        if not may_see:
            challenge = {"www-authenticate": 'Basic realm="mq", charset="UTF-8"'}
            return Response("The metrics need a user and a password (HTTP Basic).\n", 401, challenge)
        try:
            return Response(await self._scrape(), media_type=FORMAT)
        except Busy as error:
            return Response(f"{error}\n", 503)

    async def _scrape(self) -> bytes:
        async with self._lock:
            if not self._text or time.monotonic() - self._scraped > KEPT_SECONDS:
                self._text = await self._desk.ask(lambda broker: self._collect(), SCRAPE_SECONDS)
                self._scraped = time.monotonic()
            return self._text

    def _collect(self) -> bytes:
        from mq.metrics import Collector

        if self._collector is None:
            self._collector = Collector(self._site.broker)
        with spared.collections():
            return self._collector.text()


class Health:
    """Whether the store takes and gives messages; no more is said, for anyone may ask."""

    def __init__(self, site: Site, desk: Desk) -> None:
        self._site, self._desk = site, desk

    async def answer(self, request: Request) -> Response:
        status = await self._status()
        headers = {"cache-control": "no-store"}
        return JSONResponse({"status": status}, 200 if status in ("ok", "disk full") else 503, headers)

    async def _status(self) -> str:
        if self._site.stopping.is_set():
            return "stopping"
        try:
            found = await self._desk.ask(lambda broker: health(broker._store), HEALTH_SECONDS)
        except Busy:
            return "busy"
        except MqError:
            return "unavailable"
        return "failed" if found.failed else "disk full" if found.disk_full else "ok"


def routes(gate: Gate) -> list[Route]:
    return [
        Route("/metrics", Metrics(gate.site, gate.desk, gate.sessions).answer),
        Route("/healthz", Health(gate.site, gate.desk).answer),
    ]
