"""One thread for all tasks that wait for the same: it does together what waits at the same time.

task, task ──► waiting ──► the thread: all of it ──► each loop is told once
                  │
                  └ what comes meanwhile is next
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
W = TypeVar("W")
Outcome = tuple[Any, BaseException | None]  # what was returned, and what was raised
Told = tuple[asyncio.Future[Any], Any, BaseException | None]


class OneThread(Generic[W]):
    def __init__(self, name: str, do: Callable[[list[W]], list[Outcome]]) -> None:
        """*do*: all that waits, in its order; the outcome of each."""
        self._do: Final = do
        # An idle thread of a pool keeps nothing alive: a program may forget its broker.
        self._pool: Final = ThreadPoolExecutor(1, name)
        self._lock: Final = threading.Lock()  # of the next two
        self._waiting: list[tuple[W, asyncio.Future[Any]]] = []
        self._is_running = False  # the thread will come by for what waits

    def ask(self, what: W) -> asyncio.Future[Any]:
        """Have the thread do it, behind all that waits already."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((what, future))
            if not self._is_running:
                try:
                    self._pool.submit(self._run)
                except RuntimeError:  # the broker was closed behind the turn: what is asked is told so
                    threading.Thread(target=self._run, name="mq aio alone").start()
                self._is_running = True
        return future

    def _run(self) -> None:
        while waiting := self._all():
            outcomes = self._do([what for what, _ in waiting])
            tell_all((future, *each) for (_, future), each in zip(waiting, outcomes, strict=True))

    def _all(self) -> list[tuple[W, asyncio.Future[Any]]]:
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


def tell_all(told: Iterable[Told]) -> None:
    """`tell` each, from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Told]] = {}
    for each in told:
        by_loop.setdefault(each[0].get_loop(), []).append(each)
    for loop, those in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: no task waits any more
            loop.call_soon_threadsafe(partial(_tell_those, those))


def _tell_those(those: list[Told]) -> None:
    for each in those:
        tell(*each)
