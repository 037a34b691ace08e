"""Bodies of requests: how long they may be and may take, and how much of them is in memory at once.

    413    the body is longer than `body_bytes_max`, by its Content-Length or as it comes
    408    it was not complete after BODY_SECONDS
    503    all requests together hold more than MEMORY_BYTES_MAX: try again

Heads and connections: see connection.py.  How many requests are in flight needs no bound of its own: there is
one on a connection, and a bound on connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NoReturn

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS: Final = 30.0
MEMORY_BYTES_MAX: Final = 256 << 20
TEXTS: Final = {
    408: "The body of the request took too long.",
    413: "The body of the request is too long.",
    503: "The server has too many requests in memory: try again.",
}


class Refused(Exception):
    """A request whose body is not read to its end; whatever a face makes of that is not sent."""


class Limits:
    """Middleware, for all faces."""

    def __init__(
        self, app: ASGIApp, body_bytes_max: int, *, seconds: float = BODY_SECONDS,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
    ) -> None:  # fmt: skip
        self._app, self._bytes_max, self._seconds = app, body_bytes_max, seconds
        self._memory_max, self._memory = memory_bytes_max, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body = _Body(self, receive, send)
        try:
            body.require_length(scope["headers"])
            await self._app(scope, body.receive, body.send)
        except (Refused, ClientDisconnect):
            pass
        finally:
            self._memory -= body.size
        if body.refused and not body.responded:
            await _say(send, body.refused)

    def has_room(self, size: int) -> bool:
        """Count what one request brings into memory: whether it may."""
        self._memory += size
        return self._memory <= self._memory_max


class _Body:
    """The body of one request, as it comes."""

    def __init__(self, limits: Limits, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = limits, receive, send
        self._until = asyncio.get_running_loop().time() + limits._seconds
        self._complete = False
        self.size, self.refused, self.responded = 0, 0, False

    def require_length(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._limits._bytes_max:
                self._refuse(413)

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # which waits for the client to go
        left = self._until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            self._refuse(408)
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self._complete = not message.get("more_body", False)
        return message

    def _count(self, size: int) -> None:
        self.size += size
        has_room = self._limits.has_room(size)
        if self.size > self._limits._bytes_max:
            self._refuse(413)
        if not has_room:
            self._refuse(503)

    def _refuse(self, status: int) -> NoReturn:
        self.refused = status
        raise Refused

    async def send(self, message: Message) -> None:
        if self.responded or not self.refused:
            self.responded = True
            await self._send(message)


async def _say(send: Send, status: int) -> None:
    text = TEXTS[status].encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]  # fmt: skip
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
