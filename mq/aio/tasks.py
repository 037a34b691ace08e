"""Tasks: the event loop of a program, for the handlers that run in it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from mq.workers.mailbox import Mailbox

from .lane import Lane

T = TypeVar("T")


class Caught:
    """The signals of one loop: several brokers may run in it."""

    def __init__(self) -> None:
        self.told: Final[list[Callable[[int], None]]] = []
        self.before: Final[dict[signal.Signals, Any]] = {}  # what is to be put back

    def catch(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            if _is_default(handler := signal.getsignal(number)):
                with suppress(ValueError, NotImplementedError, RuntimeError):  # not the main thread
                    loop.add_signal_handler(number, partial(self._tell, number))
                    self.before[number] = handler

    def let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        for number, handler in self.before.items():
            if loop.remove_signal_handler(number):  # else the loop was closed, which has put it back
                signal.signal(number, handler)
        self.before.clear()

    def _tell(self, number: int) -> None:
        for tell in self.told:
            tell(number)


def _is_default(handler: Any) -> bool:
    """Whether it is what Python, or asyncio.run, has for a signal that the program does not handle."""
    if isinstance(handler, partial):
        return isinstance(getattr(handler.func, "__self__", None), asyncio.Runner)
    return handler in (signal.SIG_DFL, signal.default_int_handler)


_caught: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Caught]] = WeakKeyDictionary()


class Tasks:
    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, events: Mailbox[Any]) -> None:
        """*events*: of the run, which is told of signals there."""
        self.loop, self._lane, self._events = loop, lane, events

    def soon(self, do: Callable[..., object], *given: object) -> None:
        try:
            self.loop.call_soon_threadsafe(do, *given)
        except RuntimeError:  # the loop is closed, and its tasks with it: as behind a second signal
            self._events.put(signal.SIGTERM)
            self._events.put(signal.SIGTERM)

    async def do(self, do: Callable[[], T]) -> T:
        if self._lane.store.together:  # where it waits for a round trip with what others append
            return await self._lane.beside(do)
        return await self._lane.now(do)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT are told to the run, in the main thread, unless the program handles them."""
        caught, tell = _caught.setdefault(self.loop, Caught()), self._events.put
        if not caught.told:
            caught.catch(self.loop)
        caught.told.append(tell)
        try:
            yield
        finally:
            caught.told.remove(tell)
            if not caught.told:
                caught.let_go(self.loop)
