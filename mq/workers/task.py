"""Slots for `async def`: tasks of one event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from .asked import Wrap
from .handler import Handler
from .outcome import AGAIN_SECONDS, give_back
from .slot import Call, Slot

T = TypeVar("T")

END_SECONDS: Final = 1.0  # for tasks that were cancelled to end


class Tasks(Protocol):
    """An event loop, for slots."""

    def soon(self, do: Callable[..., object], *given: object) -> None: ...
    async def do(self, do: Callable[[], T]) -> T: ...


class TaskSlot(Slot):
    def __init__(
        self, handler: Handler, wraps: Sequence[Wrap], done: Callable[[Slot], None], loop: Tasks
    ) -> None:  # fmt: skip
        super().__init__(handler, wraps, done)
        self._loop = loop
        self._task: asyncio.Task[None] | None = None  # of the loop's thread

    def begin(self, call: Call) -> None:
        self._loop.soon(self._begin, call)

    def _begin(self, call: Call) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(call))

    async def _run(self, call: Call) -> None:
        task = asyncio.current_task()
        error: BaseException | None = None
        try:
            result = self._call(call)
            if inspect.isawaitable(result):
                await result
        except BaseException as raised:  # noqa: BLE001  # as in a thread
            error = raised
        outcomes = self._outcomes(call, error)
        try:
            if isinstance(error, GeneratorExit) and not asyncio._get_running_loop():
                give_back(self.handler.source, call)  # the loop was closed, and its tasks with it
            elif isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                if self.gone is not call:
                    await self._loop.do(partial(give_back, self.handler.source, call))
            else:  # a CancelledError that is the handler's own is an error as others are
                for part, why in outcomes:
                    await self._settle(call, part, why)
        finally:
            self._done(self)

    async def _settle(self, call: Call, part: Call, error: BaseException | None) -> None:
        while self.gone is not call:
            if await self._loop.do(partial(self._try_to_settle, part, error)):
                return
            await asyncio.sleep(AGAIN_SECONDS)

    def give_up(self) -> Call:
        call = super().give_up()
        self._loop.soon(self._cancel)
        return call

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()

    def end(self) -> None:
        pass


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="mq event loop", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._end_tasks()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _end_tasks(self) -> None:
        """Those of handlers that were given up, and what handlers left behind."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=END_SECONDS))

    async def do(self, do: Callable[[], T]) -> T:
        """Settle, in a task."""
        return do()

    def soon(self, do: Callable[..., object], *given: object) -> None:
        self._loop.call_soon_threadsafe(do, *given)

    def end(self) -> None:
        """Cancel all tasks, and stop when they have ended, or after a while."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)
