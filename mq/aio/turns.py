"""Turns: tasks with something in the way of their turn.  One thread takes the turns of all that wait.

With a thread for each, they would be in each other's way: a thread that has the turn, and waits for the
interpreter, keeps out the event loop, which sends more threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from mq.errors import StoreLocked

T = TypeVar("T")
Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Turns:
    def __init__(self) -> None:
        # An idle thread of a pool keeps nothing alive: a program may forget its broker.
        self._pool: Final = ThreadPoolExecutor(1, "mq aio turn")
        self._lock: Final = threading.Lock()  # of the next two
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._is_running = False  # the thread will come by for what waits

    def take(self, do: Callable[[], T]) -> asyncio.Future[T]:
        """Have the thread do it, behind all that wait already."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((do, future))
            if not self._is_running:
                self._pool.submit(self._run)
                self._is_running = True
        return future

    def _run(self) -> None:
        while waiting := self._all():
            by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
            locked: StoreLocked | None = None
            for do, future in waiting:
                # Those behind it have waited as long: in a row, their waits would add up to minutes.
                result, error = (None, locked) if locked else outcome(do)
                locked = error if isinstance(error, StoreLocked) else None
                by_loop.setdefault(future.get_loop(), []).append((future, result, error))
            for loop, outcomes in by_loop.items():
                with suppress(RuntimeError):  # the loop is closed: no task waits any more
                    loop.call_soon_threadsafe(partial(_tell, outcomes))

    def _all(self) -> list[tuple[Callable[[], Any], asyncio.Future[Any]]]:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._is_running = bool(waiting)
            return waiting

    def end(self) -> None:
        """No more is to be done than what waits."""
        self._pool.shutdown(wait=False)


def outcome(do: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """What it returned, and what it raised."""
    try:
        return do(), None
    except BaseException as error:  # noqa: BLE001  # it is the task's
        return None, error


def tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Called in the loop of the *future*."""
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _tell(outcomes: list[Outcome]) -> None:
    for each in outcomes:
        tell(*each)
