"""Streams of server-sent events: the part of a page that changes, whenever it has changed.

A stream ends with its client, with the session of its user, when the server stops, and after an hour; the
script of the page opens the next one.  So many at once; the one too many is told to come back later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

import mq
from mq.serve.ui.desk import Busy
from mq.serve.ui.gate import Gate, Problem, Visit
from mq.serve.ui.pages import LIVE, Page

STREAMS_MAX: Final = 64
STREAM_SECONDS: Final = 3600.0
PING_SECONDS: Final = 15.0
RETRY_MS: Final = 3000


async def stream(gate: Gate, visit: Visit) -> Response:
    """The stream of the page that `of` names; the rest of the query is that of the page."""
    page = LIVE.get(visit.asked("of"))
    if page is None:
        raise Problem(404, "There is no such stream.")
    if gate.streams >= STREAMS_MAX:
        raise Problem(503, "Too many pages are open.")
    return StreamingResponse(
        _events(gate, visit, page), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )  # fmt: skip


async def _events(gate: Gate, visit: Visit, page: Page) -> AsyncIterator[bytes]:
    gate.streams += 1
    stopping: asyncio.Future[Any] = asyncio.ensure_future(gate.site.stopping.wait())
    try:
        with gate.sampler.watching():
            yield f"retry: {RETRY_MS}\n\n".encode()
            async for event in _until_over(gate, visit, page, stopping):
                yield event
    finally:
        gate.streams -= 1
        stopping.cancel()


async def _until_over(
    gate: Gate, visit: Visit, page: Page, stopping: asyncio.Future[Any]
) -> AsyncIterator[bytes]:  # fmt: skip
    loop = asyncio.get_running_loop()
    until, sent = loop.time() + STREAM_SECONDS, ""
    while loop.time() < until and not stopping.done():
        if not gate.sessions.may_enter(gate.sessions.visitor(visit.request)):
            yield b"event: over\ndata: signed out\n\n"
            return
        taken: asyncio.Future[Any] = asyncio.ensure_future(gate.sampler.next())
        await asyncio.wait({taken, stopping}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not taken.done():
            taken.cancel()
            yield b": still here\n\n"
            continue
        text = await _part(gate, visit, page)
        if text != sent:
            sent = text
            yield _event(text)


async def _part(gate: Gate, visit: Visit, page: Page) -> str:
    """The part of the page as it is now; with the trouble that the store is in, if so."""
    sample, found = gate.sampler.latest, {}
    if sample is not None:
        with suppress(mq.MqError, Busy, Problem):  # the page says what the trouble is
            found = await page.find(gate, visit, sample)
    head = gate.part("base", "status", visit.visitor, here=page.here)
    if not found:
        return head
    return head + gate.part(page.template, "live", visit.visitor, **{"sample": sample, **found})


def _event(text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"{lines}\n".encode()
