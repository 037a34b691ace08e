"""Lane: runs what touches the store, for one event loop.

    soon      a turn of microseconds: in the loop itself if nothing is in its way, else in the thread that
              takes the turns of all tasks that wait for one (turns.py)
    in_thread whatever may take long, in a thread of several
    ┌──────┐  soon   ┌──────────────────────┐  owed to the disk   ┌────────────┐
    │ task │ ──────► │ the store, at once   │ ──────────────────► │ syncs      │ ──► one fdatasync for
    └──────┘         └──────────────────────┘                     └────────────┘     all tasks that wait

A task that is cancelled never loses a message: what a thread took for it is given back, unless it arrived
settled (at most once).  So it is with one whose loop was closed while it waited.

The child of a fork has none of these threads, and no loop that runs.  In a loop of its own it may use
what it inherited, and begins threads of its own; what tasks of the parent wait for is the parent's.
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
from weakref import ref

from mq.api.around import NO_HEADERS, SEND
from mq.api.options import check_seconds
from mq.engine import hot
from mq.engine.at_once import BUSY, LONG_BYTES, at_once, in_turn
from mq.engine.channel import Channel
from mq.engine.handle import Held
from mq.engine.receiving import Unread
from mq.engine.store import Store
from mq.engine.together import Ack, Pending, Publication
from mq.errors import DiskFull, QueueFull

from .appends import Appends
from .one_thread import OneThread, outcome, tell
from .syncs import sync_all
from .turns import take_all

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
        self._stretch = 0
        self._begin()

    def _begin(self) -> None:
        """Have threads; again in the child of a fork, where there are none."""
        self._pid = os.getpid()
        self._declarations: list[asyncio.Task[None]] = []  # in their order, until they are awaited
        self._pool = ThreadPoolExecutor(THREADS, "mq aio")
        self._syncs = OneThread[int]("mq aio sync", partial(sync_all, self.store.finish_publish))
        self._turns = OneThread[Callable[[], Any]]("mq aio turn", take_all)
        together = self.store.together
        self._appends = Appends(together) if together else None

    def _begin_here(self) -> None:
        if self._pid != os.getpid():
            self._begin()

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
        rest: Callable[[], Any] | None = None
        is_taken = False
        try:
            result, end = at_once(self.store, do, *given)  # as `now` does, without a coroutine more
            if result is BUSY:
                result, end = await self._in_turn(do, given, undo)
        except DiskFull:
            rest = partial(do, *given)  # a thread may wait for the cleaner
        except Unread as unread:
            rest, is_taken = unread.read, True
        if rest:
            return await self._in_thread(rest, undo, is_taken=is_taken)
        if end:
            await self._on_disk(end)
        return result  # type: ignore[return-value]

    async def now(self, do: Callable[[*Given], T], *given: *Given) -> T:
        """`soon`, and it is done in any case, also if the task is cancelled: what settles a message."""
        result, end = at_once(self.store, do, *given)
        if result is BUSY:
            result, end = await self._in_turn(do, given, None)  # it waits for nothing that was declared
        if end:
            await self._on_disk(end)
        return result  # type: ignore[return-value]

    async def _in_turn(
        self, do: Callable[..., Any], given: tuple[Any, ...], undo: Callable[[Any], object] | None
    ) -> tuple[Any, int]:
        """What it returned, and up to where the log is owed to the disk, once a thread has had the turn."""
        if self._over:
            return do(*given), 0  # which says that the broker is closed
        self._begin_here()
        undo_result = (lambda found: undo(found[0])) if undo else None
        return await undone_if_cancelled(
            self._turns.ask, partial(in_turn, self.store, do, *given), undo_result
        )

    async def publish(self, channel: Channel, flags: int, raw: bytes) -> int | None:
        """Publish with what others append at the same time; None: that needs a plan.

        Of stores that have `together` only; so `ack`.
        """
        if self._declarations:
            await self.declared()
        return await self._append(Publication(channel, flags, raw))  # type: ignore[no-any-return]

    async def ack(self, message: Held, ack: Ack | None = None) -> None:
        """Ack with what others append at the same time.  *ack*: so; None: take nothing along."""
        if not await self._append(ack or Ack(message._queue._channel, message)):
            await self.now(hot.ack, message)

    async def _append(self, pending: Pending) -> Any:
        """None: it is to be done by itself."""
        self._begin_here()
        return await self._appends.do(pending) if self._appends and not self._over else None

    async def beside(self, do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Do it in a thread, whatever was declared; without *undo*, also if the task is cancelled."""
        return await self._in_thread(do, undo)

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
        self._begin_here()
        run = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        return await undone_if_cancelled(run, do, undo, is_taken=is_taken)

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
        self._begin_here()
        with suppress(RuntimeError):  # the lane was closed: what is in flight comes back by itself
            self._pool.submit(do)

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
        self._begin_here()
        await self._syncs.ask(end)

    async def close(self, do: Callable[[], None]) -> None:
        """Do the last thing, and let the threads end; also if the task is cancelled meanwhile."""
        self._begin_here()
        loop = asyncio.get_running_loop()
        left = [each for each in self._declarations if not each.done() and each.get_loop() is loop]
        try:
            if left:
                await asyncio.wait(left)
        finally:
            await asyncio.shield(in_own_thread(partial(self._close, do)))

    def _close(self, do: Callable[[], None]) -> None:
        try:
            do()
        finally:
            self._over = True
            self._syncs.end()
            self._turns.end()
            self._pool.shutdown(wait=False)
            if self._appends:
                self._appends.end()


def in_own_thread(do: Callable[[], T], *, daemon: bool = False) -> asyncio.Future[T]:
    """Do it in a thread that is for this alone: those of a pool may all be in use.

    The thread does not keep the task that waits for it: if its loop is closed, it is forgotten as others are.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    told = ref(future)

    def live() -> None:
        result, error = outcome(do)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_tell, told, result, error)

    threading.Thread(target=live, name="mq aio alone", daemon=daemon).start()
    return future


def _tell(told: ref[asyncio.Future[Any]], result: Any, error: BaseException | None) -> None:
    if future := told():
        tell(future, result, error)


async def undone_if_cancelled(
    run: Callable[[Callable[[], T]], asyncio.Future[T]], do: Callable[[], T],
    undo: Callable[[T], object] | None, *, is_taken: bool = False,
) -> T:  # fmt: skip
    """What *do* returns, which *run* has a thread do; *undo* is given that, if the task is cancelled."""
    work = Undoable(do, undo, is_taken=is_taken)
    future = run(work.run)
    try:
        return await asyncio.shield(future)
    except (asyncio.CancelledError, GeneratorExit):  # the latter: the loop was closed, the task forgotten
        with suppress(RuntimeError):  # the loop is closed
            future.add_done_callback(_take_note)
        if undo and work.cancel():
            with suppress(RuntimeError):  # the interpreter ends
                threading.Thread(target=work.undo, name="mq aio undo").start()
        raise


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
        self._loop = asyncio.get_running_loop()
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
        if self._undo and (cancelled or self._loop.is_closed()):
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
