"""A connection: HTTP/1.1 as uvicorn and llhttp read it, within the limits of the server (limits.py).

A request that is refused here reaches no face, or its face is told that the client has hung up.  A response
that was sent before the body was read closes the connection.

A face that has a whole response gives it to `scope["extensions"][RESPOND]`: what ASGI does with it, in two
messages for any kind of response, takes longer than to read the request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mq.serve.face import HUNG_UP, RESPOND
from mq.serve.limits import HEAD_BYTES_MAX, PIPELINED_MAX, READ_BYTES_MIN, REFUSALS, Limits

HEAD: Final = "head"
BODY: Final = "body"
NOTHING: Final = ""


class Refused(Exception):
    """A request that llhttp is to read no further; uvicorn calls `send_400_response` then."""


class Response:
    """The transport of one response: its head goes out with the beginning of its body, in one write."""

    __slots__ = ("_head", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None  # what waits for the rest; b"" once it is written
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        head = self._head
        if head is None:
            self._head = data
            self._loop.call_soon(self._flush)  # behind the task that responds, if it waits for something
        elif head:
            self._head = b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def write_all(self, response: bytes) -> None:
        self._flush()
        self._transport.write(response)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


class Connection(HttpToolsProtocol):
    """uvicorn's connection, limited.  The class of one server: see `protocol`."""

    limits: Limits
    _awaited = HEAD  # the part of a request that is on its way
    _timer: asyncio.TimerHandle | None = None  # until that part is late
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0  # of a part of the head that llhttp has not told of yet
    _counted = 0  # of the head that it has told of, or of the trailer
    _body_bytes = 0
    _status = 400  # what a request that is refused is answered with
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unanswered: deque[RequestResponseCycle] = deque()  # requests that have no response yet
        self._held: deque[int] = deque()  # bytes of the body of each of them
        if len(self.connections) > self.limits.connections_max:
            self._refused = True
            transport.abort()
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        self.limits.memory_bytes -= sum(self._held)
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        was_in_head = self._awaited == HEAD
        super().data_received(data)
        if was_in_head and self._awaited == HEAD:  # all of it belongs to one head
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431)
        if len(self.pipeline) > PIPELINED_MAX and not self.transport.is_closing():
            self._abort()
        if self._awaited and self._timer is None:
            self._expect()

    # ── the head of a request ──────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self._awaited, self._head_bytes, self._counted, self._body_bytes = HEAD, 0, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the head; or of the trailer behind a chunked body, which no face asks for."""
        self._count(len(name) + len(value))
        if self._awaited == HEAD:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._counted += size
        if self._counted > HEAD_BYTES_MAX:
            raise self._refusal(431)

    def _refusal(self, status: int) -> Refused:
        self._status = status
        return Refused()

    # ── its body ───────────────────────────────────────────────────────────────────

    def on_headers_complete(self) -> None:
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit():
                self._require_body(int(value[:20]))
        self._stop_timer()
        self._awaited = BODY
        super().on_headers_complete()
        self.cycle.transport = Response(self.transport, self.loop)  # type: ignore[assignment]
        if not self.parser.should_keep_alive():  # older uvicorns ask for that while they send
            self.cycle.keep_alive = False
        extensions: Any = {RESPOND: self._respond, HUNG_UP: self.transport.is_closing}
        self.scope["extensions"] = extensions
        self._unanswered.append(self.cycle)
        self._held.append(0)

    def on_body(self, body: bytes) -> None:
        limits, size = self.limits, len(body)
        if self._held and not self.cycle.response_complete:
            self._held[-1] += size
            limits.memory_bytes += size
        self._body_bytes += size
        self._require_body(self._body_bytes)
        if limits.memory_bytes > limits.memory_bytes_max:
            raise self._refusal(503)
        super().on_body(body)

    def _require_body(self, size: int) -> None:
        if size > self.limits.body_bytes_max:
            raise self._refusal(413)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._awaited = NOTHING
        super().on_message_complete()

    # ── its response ───────────────────────────────────────────────────────────────

    async def _respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Send a whole response, of which *headers* are lines, as `RequestResponseCycle.send` does."""
        cycle = self._unanswered[0]
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        common = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
        end = b"" if cycle.keep_alive else b"connection: close\r\n"
        head = b"%b%b%b%b\r\n" % (STATUS_LINE[status], common, headers, end)
        response: Any = cycle.transport
        response.write_all(head if cycle.scope["method"] == "HEAD" else head + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            response.close()
        cycle.on_response()

    def on_response_complete(self) -> None:
        self._unanswered.popleft()
        if self._held:
            self.limits.memory_bytes -= self._held.popleft()
        if self.cycle.more_body and not self.pipeline:
            self.transport.close()  # the rest of a body that no face wants would be read for ever
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is refused, and close; a response that is on its way is cut off instead."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self._is_answering():
            self._abort()  # what is written now would stand inside of that response
            return
        if self._awaited == BODY:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._status == 400:
            super().send_400_response(msg)
        else:
            self.transport.write(REFUSALS[self._status])
            self.transport.close()

    def _is_answering(self) -> bool:
        """Whether a response has begun, or one to an earlier request is due."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return self._awaited != BODY or cycle.response_started or bool(self.pipeline)

    def _refuse(self, status: int) -> None:
        self._status = status
        self.send_400_response("")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    # ── time ───────────────────────────────────────────────────────────────────────

    def _expect(self) -> None:
        """Have the rest of what is awaited come in time."""
        limits = self.limits
        seconds = limits.head_seconds if self._awaited == HEAD else limits.body_seconds
        self._timer = self.loop.call_later(seconds, self._is_late)

    def _expect_reader(self) -> None:
        """Have the client take its response: all that is left, or a good part of it in time."""
        self._stop_write_timer()
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self._look_at_reader, left)

    def _look_at_reader(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < READ_BYTES_MIN:
            self._abort()
        else:
            self._expect_reader()

    def _is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # it is the server that does not read
            self._expect()
        elif self._awaited == HEAD:
            self._abort()
        else:
            self._refuse(408)

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


def protocol(limits: Limits) -> type[Connection]:
    """The class for one server, which is given to `uvicorn.Config(http=…)`."""
    return type("Connection", (Connection,), {"limits": limits})
