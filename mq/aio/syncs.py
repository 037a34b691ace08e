"""Syncs: tasks that wait for the disk.  One thread syncs for all that wait at the same time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final


class Syncs:
    def __init__(self, sync: Callable[[int], None]) -> None:
        """*sync*: returns when the log is on the disk up to a position."""
        self._sync: Final = sync
        # An idle thread of a pool keeps nothing alive: a program may forget its broker.
        self._pool: Final = ThreadPoolExecutor(1, "mq aio sync")
        self._lock: Final = threading.Lock()  # of the next two
        self._owed: list[tuple[int, asyncio.Future[None]]] = []
        self._is_running = False  # the thread will come by for what is owed

    async def wait(self, end: int) -> None:
        """Return when the log is on the disk up to *end*."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._owed.append((end, future))
            if not self._is_running:
                self._pool.submit(self._run)
                self._is_running = True
        await future

    def _run(self) -> None:
        while owed := self._take():
            error: BaseException | None = None
            try:
                self._sync(max(end for end, _ in owed))
            except BaseException as raised:  # noqa: BLE001  # it is the tasks'
                error = raised
            by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
            for _, future in owed:
                by_loop.setdefault(future.get_loop(), []).append(future)
            for loop, futures in by_loop.items():
                with suppress(RuntimeError):  # the loop is closed: no task waits any more
                    loop.call_soon_threadsafe(partial(_resolve, futures, error))

    def _take(self) -> list[tuple[int, asyncio.Future[None]]]:
        with self._lock:
            owed, self._owed = self._owed, []
            self._is_running = bool(owed)
            return owed

    def end(self) -> None:
        """No more is owed."""
        self._pool.shutdown(wait=False)


def _resolve(futures: list[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
