"""A connection: HTTP/1.1 as uvicorn and llhttp read it, with a bound on all that a client can make grow.

    connections      so many at once; the next one is closed at once
    head             bytes of a request's line and headers (431), seconds until they are complete (closed)
    pipeline         requests that a client sends ahead; more of them close the connection
    slow reader      a response that is not taken for so long closes the connection
    unread body      a response that was sent before the body was read closes the connection

How long a body may be, and how long it may take, is in limits.py: only the faces know which bodies they want.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX: Final = 64 << 10
HEAD_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 30.0
PIPELINED_MAX: Final = 32
FILES_KEPT: Final = 256  # descriptors that connections leave to the store
TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 29\r\nconnection: close\r\n\r\nThe request head is too long."
)


class TooLong(Exception):
    """The head of a request, or the trailer of its body, has more bytes than a client needs."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, bounded.  The class of one server: see `protocol`."""

    connections_max: int = 0
    head_seconds = HEAD_SECONDS
    write_seconds = WRITE_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _counted = 0
    _is_too_long = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            self._refused = True
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    # ── the head of a request ──────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        in_head = self._in_head
        super().data_received(data)
        if in_head and self._in_head:  # all of it belongs to one head, which is not complete yet
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._is_too_long = True
                self.send_400_response("")
        if len(self.pipeline) > PIPELINED_MAX and not self.transport.is_closing():
            self._abort()

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._counted = True, 0, 0
        if self._timer is None:
            self._expect_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the head; or of the trailer behind a chunked body, which no face asks for."""
        self._count(name + value)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _count(self, part: bytes) -> None:
        self._counted += len(part)
        if self._counted > HEAD_BYTES_MAX:
            self._is_too_long = True
            raise TooLong  # llhttp stops, and uvicorn calls what is below

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close; a response that is on its way is cut off instead."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._abort()  # what is written now would stand inside of that response
        elif self._is_too_long:
            self.transport.write(TOO_LONG)
            self.transport.close()
        else:
            super().send_400_response(msg)

    # ── between two requests, and while a response is sent ─────────────────────────

    def on_response_complete(self) -> None:
        if self.cycle.more_body and not self.pipeline:
            self.transport.close()  # the rest of a body that no face wants would be read for ever
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.write_seconds, self._abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    # ── time ───────────────────────────────────────────────────────────────────────

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _abort(self) -> None:
        self.transport.abort()


def protocol(connections_max: int, **seconds: float) -> type[Connection]:
    """The class for one server, which is given to `uvicorn.Config(http=…)`.

    *connections_max*: fewer, if the system does not let this process have so many descriptors.
    *seconds*: `head_seconds` and `write_seconds`, for tests.
    """
    bounds: dict[str, Any] = {"connections_max": min(connections_max, _descriptors()), **seconds}
    return type("Connection", (Connection,), bounds)


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - FILES_KEPT) if soft != resource.RLIM_INFINITY else 1 << 20
