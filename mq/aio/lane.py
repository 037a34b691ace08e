"""Lane: runs what touches the store, for one event loop.

    soon      a turn of microseconds: in the loop itself if nothing is in its way, else in a thread
    in_thread whatever may take long
    ┌──────┐  soon   ┌──────────────────────┐  owed to the disk   ┌────────────┐
    │ task │ ──────► │ the store, at once   │ ──────────────────► │ one thread │ ──► one fdatasync for
    └──────┘         └──────────────────────┘                     └────────────┘     all tasks that wait

A task that is cancelled never loses a message: what a thread took for it is given back.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple

from mq.api.around import NO_HEADERS, SEND
from mq.api.options import check_seconds
from mq.engine.at_once import BUSY, LONG_BYTES, at_once
from mq.engine.receiving import Unread
from mq.engine.store import Store
from mq.errors import DiskFull, QueueFull

T = TypeVar("T")
Given = TypeVarTuple("Given")
Plan = Callable[[Any, Mapping[str, str]], T]
"""Publishes with these options, and with more headers."""

THREADS: Final = 16
ROOM_SECONDS: Final = 0.02  # how often a task that waits for room in a full queue looks
LARGE_BYTES: Final = LONG_BYTES  # of bodies that take longer than a turn of the event loop should
STRETCH: Final = 64  # so many turns at once in a row; then the other tasks have theirs


class Lane:
    def __init__(self, store: Store) -> None:
        self.store = store
        self._over = False
        self._declarations: list[asyncio.Task[None]] = []  # in their order, until they are awaited
        self._stretch = 0
        self._begin()

    def _begin(self) -> None:
        """Have threads; again in the child of a fork, where there are none."""
        self._pid = os.getpid()
        self._threads = ThreadPoolExecutor(THREADS, "mq aio")
        self._syncing = threading.Thread(target=self._sync, name="mq aio sync", daemon=True)
        self._syncs = threading.Condition()
        self._owed: list[tuple[int, asyncio.Future[None]]] = []

    async def soon(
        self, do: Callable[[*Given], T], *given: *Given, undo: Callable[[T], object] | None = None
    ) -> T:
        """Do it, which takes microseconds, and return once what it owes to the disk is there.

        *undo*: what to do with the result, if the task is cancelled meanwhile.
        """
        self._stretch += 1
        if self._stretch >= STRETCH:
            self._stretch = 0
            await asyncio.sleep(0)  # before anything is done: the task may be cancelled here
        if self._declarations:
            await self.declared()
        read: Callable[[], Any] | None = None
        try:
            result, end = at_once(self.store, do, *given)  # as `now` does, without a coroutine more
        except DiskFull:
            result = BUSY  # a thread may wait for the cleaner
        except Unread as rest:
            read = rest.read
        if read:
            return await self._in_thread(read, undo, is_taken=True)
        if result is BUSY:
            return await self._in_thread(partial(do, *given), undo)
        if end:
            await self._on_disk(end)
        return result  # type: ignore[return-value]

    async def now(self, do: Callable[[*Given], T], *given: *Given) -> T:
        """`soon`, and it is done in any case, also if the task is cancelled: what settles a message."""
        result, end = at_once(self.store, do, *given)
        if result is BUSY:
            return await self.in_thread(partial(do, *given))
        if end:
            await self._on_disk(end)
        return result  # type: ignore[return-value]

    async def in_thread(self, do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Do it in a thread."""
        if self._declarations:
            await self.declared()
        return await self._in_thread(do, undo)

    async def _in_thread(
        self, do: Callable[[], T], undo: Callable[[T], object] | None = None, *, is_taken: bool = False
    ) -> T:
        """*is_taken*: there is something to undo before it has begun."""
        if self._over:
            return do()  # which says that the broker is closed
        if self._pid != os.getpid():
            self._begin()
        task = Undoable(do, undo, is_taken=is_taken)
        future = asyncio.get_running_loop().run_in_executor(self._threads, task.run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_take_note)
            if undo and task.cancel():
                self.later(task.undo)
            raise

    # ── what names, and is not awaited ─────────────────────────────────────────────

    def declare(self, do: Callable[[], object]) -> None:
        """Do it in a thread, behind all that were declared before.

        What is awaited next waits for it, and raises what it raised.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # then there is none to keep waiting
            do()
            return
        before = self._declarations[-1] if self._declarations else None
        self._declarations.append(loop.create_task(self._declare(do, before)))

    async def _declare(self, do: Callable[[], object], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await self._in_thread(do)

    async def declared(self) -> None:
        """Return once all is done that was declared."""
        while self._declarations:
            await self._first_declared(self._declarations[0])

    async def _first_declared(self, first: asyncio.Task[None]) -> None:
        is_over = first.get_loop() is not asyncio.get_running_loop()  # its loop has ended, or is a parent's
        try:
            if not is_over:
                await asyncio.shield(first)
        finally:
            if (is_over or first.done()) and first in self._declarations:
                self._declarations.remove(first)

    # ── what no task waits for ─────────────────────────────────────────────────────

    def later(self, do: Callable[[], object]) -> None:
        """Do it in a thread, and wait for nothing."""
        with suppress(RuntimeError):  # the lane was closed: what is in flight comes back by itself
            self._threads.submit(do)

    def at_some_time(self, do: Callable[[], object]) -> None:
        """Do it now if nothing is in the way, else in a thread; and wait for nothing."""
        if at_once(self.store, do)[0] is BUSY:
            self.later(do)

    # ── publishing ─────────────────────────────────────────────────────────────────

    async def send(
        self, destination: str, plain: Callable[[], T | None] | None, plan: Plan[T], options: Any, *,
        is_small: bool,
    ) -> T:  # fmt: skip
        """Publish by *plain*, if there are no options, and else, or if that returns None, by *plan*.

        Inside of what mq.metrics and mq.otel have asked for: see mq/api/around.py.
        """
        around = self.store.around
        if around is None:
            return await self._send(plain, plan, options, NO_HEADERS, is_small=is_small)
        with around(SEND, destination) as headers:
            return await self._send(plain, plan, options, headers, is_small=is_small)

    async def _send(
        self, plain: Callable[[], T | None] | None, plan: Plan[T], options: Any,
        headers: Mapping[str, str], *, is_small: bool,
    ) -> T:  # fmt: skip
        run = self.soon if is_small else self.in_thread
        if plain and not options and not headers:
            done = await run(plain)
            if done is not None:
                return done
        timeout = options.get("timeout")
        if timeout is None:
            return await run(partial(plan, options, headers))
        until = time.monotonic() + check_seconds("timeout", timeout)
        return await self.until_room(partial(plan, {**options, "timeout": 0}, headers), until)

    async def until_room(self, publish: Callable[[], T], until: float) -> T:
        """What *publish* returns, once there is room; QueueFull when *until* has come, monotonic seconds."""
        while True:
            try:
                return await self.in_thread(publish)
            except QueueFull:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                await asyncio.sleep(min(ROOM_SECONDS, left))

    async def _on_disk(self, end: int) -> None:
        """Return when the log is on the disk up to *end*."""
        if self._pid != os.getpid():
            self._begin()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._syncs:
            self._owed.append((end, future))
            if not self._syncing.is_alive() and not self._over:
                self._syncing.start()
            self._syncs.notify()
        await future

    def _sync(self) -> None:
        while True:
            with self._syncs:
                owed = self._wait_for_owed()
            if not owed:
                return
            error: BaseException | None = None
            try:
                self.store.finish_publish(max(end for end, _ in owed))
            except BaseException as raised:  # noqa: BLE001  # it is the tasks'
                error = raised
            by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
            for _, future in owed:
                by_loop.setdefault(future.get_loop(), []).append(future)
            for loop, futures in by_loop.items():
                with suppress(RuntimeError):  # the loop is closed: no task waits any more
                    loop.call_soon_threadsafe(partial(_resolve, futures, error))

    def _wait_for_owed(self) -> list[tuple[int, asyncio.Future[None]]]:
        """What is owed to the disk, once there is something; nothing once the lane is closed."""
        while not self._owed and not self._over:
            self._syncs.wait()
        owed, self._owed = self._owed, []
        return owed

    async def close(self, do: Callable[[], None]) -> None:
        """Do the last thing, and let the threads end."""
        if left := [each for each in self._declarations if not each.done()]:
            await asyncio.wait(left)
        try:
            await asyncio.to_thread(do)  # the lane's own may all be in use
        finally:
            with self._syncs:
                self._over = True
                self._syncs.notify()
            self._threads.shutdown(wait=False)


def _resolve(futures: list[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


def _take_note(future: asyncio.Future[Any]) -> None:
    """An error of what no task waits for any more is no news."""
    if not future.cancelled():
        future.exception()


class Undoable:
    """What a thread does for a task that may be cancelled meanwhile."""

    def __init__(
        self, do: Callable[[], Any], undo: Callable[[Any], object] | None, *, is_taken: bool
    ) -> None:
        self._do, self._undo, self._is_taken = do, undo, is_taken
        self._lock = threading.Lock()
        self._cancelled = self._done = False
        self._result: Any = None

    def run(self) -> Any:
        with self._lock:
            if self._cancelled and not self._is_taken:
                return None
        result = self._do()
        with self._lock:
            self._result, self._done = result, True
            cancelled = self._cancelled
        if cancelled and self._undo:
            self._undo(result)
        return result

    def cancel(self) -> bool:
        """Whether it is done, and to be undone by the caller; else the thread undoes it."""
        with self._lock:
            self._cancelled = True
            return self._done

    def undo(self) -> None:
        assert self._undo
        self._undo(self._result)
