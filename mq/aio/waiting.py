"""A task that waits for a message: no thread, no polling, a watch of its own.

take ──► nothing there ──► arm the watch ──► sleep ──► notified, or something is due ──► take …
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from mq.api.queue import Queue
from mq.api.watch import Watch
from mq.engine.at_once import arrives_settled

from .lane import Lane

T = TypeVar("T")

LONG_SECONDS: Final = 1e6


async def wait_for(
    lane: Lane, new_watch: Callable[[Callable[[], None]], Watch], queues: Sequence[Queue[Any]],
    take: Callable[[], T], undo: Callable[[T], object], until: float | None,
) -> T:  # fmt: skip
    """What *take* returns, once that is something, or *until* has come, monotonic seconds."""
    found = await _take(lane, queues, take, undo)
    if found or (until is not None and time.monotonic() >= until):
        return found
    loop = asyncio.get_running_loop()
    bell = asyncio.Event()
    watch = new_watch(partial(_ring, loop, bell))
    try:
        while True:
            seconds = await lane.soon(watch.arm, queues)
            if seconds:
                left = math.inf if until is None else until - time.monotonic()
                await _sleep(loop, bell, min(seconds, left))
            found = await _take(lane, queues, take, undo)
            if found or (until is not None and time.monotonic() >= until):
                return found
    finally:
        lane.at_some_time(watch.close)


async def _take(
    lane: Lane, queues: Sequence[Queue[Any]], take: Callable[[], T], undo: Callable[[T], object]
) -> T:  # fmt: skip
    """In a thread if it takes more than a turn: the disk is waited for, or there are several queues."""
    if len(queues) > 1 or arrives_settled(queues[0]._channel):
        return await lane.in_thread(take, undo)
    return await lane.soon(take, undo=undo)


async def _sleep(loop: asyncio.AbstractEventLoop, bell: asyncio.Event, seconds: float) -> None:
    """Until the bell rings, or so long."""
    timer = loop.call_later(seconds, bell.set) if seconds < LONG_SECONDS else None
    try:
        await bell.wait()
        bell.clear()
    finally:
        if timer:
            timer.cancel()


def _ring(loop: asyncio.AbstractEventLoop, bell: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(bell.set)
