"""Desk: asks the store for the dashboard, in a few threads of its own.

A turn of the store may wait for another process, and a purge takes as long as it is long.  So no question
runs in the event loop, and none in the threads of the asyncio face, which other faces need.  Questions that
wait for a thread are bounded, and each has seconds after which the page is shown without its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from mq import Broker

T = TypeVar("T")
THREADS: Final = 4
QUESTIONS_MAX: Final = 32
ASK_SECONDS: Final = 5.0
CHANGE_SECONDS: Final = 60.0


class Busy(Exception):
    """The store, or this server, does not answer in time."""


class Desk:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._pool = ThreadPoolExecutor(THREADS, "mq ui")
        self._questions = 0

    async def ask(self, question: Callable[[Broker], T], seconds: float = ASK_SECONDS) -> T:
        """What *question* returns, which a thread is to ask; Busy if that takes longer than *seconds*."""
        return await self.answer(self.begin(question), seconds)

    def begin(self, question: Callable[[Broker], T]) -> asyncio.Future[T]:
        """Have a thread ask *question*, however long that takes; Busy if there are too many already."""
        if self._questions >= QUESTIONS_MAX:
            raise Busy("too many pages wait for the store: try again in a moment")
        self._questions += 1
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, partial(question, self.broker))
        future.add_done_callback(self._done)
        return future

    async def answer(self, future: asyncio.Future[T], seconds: float = ASK_SECONDS) -> T:
        """What was asked; Busy if the answer is not there after *seconds*, and it may come later."""
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except TimeoutError:
            raise Busy(
                f"the store has not answered for {seconds:g} seconds: a process may hold its lock,"
                " or the disk hang"
            ) from None

    def _done(self, future: asyncio.Future[T]) -> None:
        self._questions -= 1
        if not future.cancelled():
            future.exception()  # no task may wait for it any more

    def close(self) -> None:
        """Take no more questions."""
        self._pool.shutdown(wait=False, cancel_futures=True)
