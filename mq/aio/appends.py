"""Appends: publishes and acks of tasks, appended together with those of other tasks and threads.

Where an append is a round trip (mq/engine/together.py) no task has a thread for itself: one thread appends
for all that wait, and wakes those of a loop at once.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mq.engine.together import Pending, Together

from .one_thread import tell_all


class Appends:
    def __init__(self, together: Together) -> None:
        self._together = together
        # A thread of their own: all of the lane's may be waiting for what this one appends.
        self._pool = ThreadPoolExecutor(1, "mq aio append")

    async def do(self, pending: Pending) -> Any:
        """What `Pending.outcome` says; if the task is cancelled, it may be appended, or not."""
        pending.future = asyncio.get_running_loop().create_future()
        self._together.add(pending, self)
        await pending.future
        return pending.outcome()

    def lead(self) -> None:
        """Called by whichever thread led before, or by a task."""
        try:
            self._pool.submit(self._together.lead)
        except RuntimeError:  # the lane was closed: what waits is told so
            threading.Thread(target=self._together.lead, name="mq aio alone").start()

    def tell(self, done: list[Pending]) -> None:
        tell_all((each.future, None, None) for each in done)

    def end(self) -> None:
        self._pool.shutdown(wait=False)
