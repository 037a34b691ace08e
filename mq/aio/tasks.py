"""Tasks: the event loop of a program, for the handlers that run in it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from .lane import Lane

T = TypeVar("T")


class Tasks:
    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane) -> None:
        self.loop, self._lane = loop, lane

    def soon(self, do: Callable[..., object], *given: object) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(do, *given)

    async def do(self, do: Callable[[], T]) -> T:
        return await self._lane.now(do)

    def catch(self, tell: Callable[[int], None]) -> dict[signal.Signals, Any]:
        """Have *tell* called by SIGTERM and SIGINT, in the main thread; what is to be put back."""
        before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            if (handler := signal.getsignal(number)) is signal.SIG_IGN:
                continue
            with suppress(ValueError, NotImplementedError, RuntimeError):
                self.loop.add_signal_handler(number, partial(tell, number))
                before[number] = handler
        return before

    def let_go(self, before: dict[signal.Signals, Any]) -> None:
        for number, handler in before.items():
            self.loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)
