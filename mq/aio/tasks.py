"""Tasks: the event loop of a program, for the handlers that run in it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from .lane import Lane


class Tasks:
    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane) -> None:
        self.loop, self._lane = loop, lane

    def soon(self, do: Callable[..., object], *given: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(do, *given)

    async def do(self, do: Callable[[], None]) -> None:
        await self._lane.now(do)

    def catch(self, tell: Callable[[int], None]) -> list[signal.Signals]:
        """Have *tell* called by SIGTERM and SIGINT, in the main thread; those that are caught."""
        caught = []
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError, NotImplementedError, RuntimeError):
                self.loop.add_signal_handler(number, partial(tell, number))
                caught.append(number)
        return caught

    def let_go(self, caught: Iterable[signal.Signals]) -> None:
        for number in caught:
            self.loop.remove_signal_handler(number)
