"""Rounds: what several requests want of a queue at the same time is done once for all of them.

    the first request ──► an open round ◄── those that come before it begins
                               │
                               └──► one write, one sync ──► each has its part of the result

A round begins once the event loop has read what has arrived.  With a write and a sync for each request, these
two would be most of what a small request costs.  It is a task of its own: a request that is cancelled leaves
the others alone.

A round that is refused has done nothing.  Then each of its requests is done by itself, so that none fails for
what another one wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from mq.errors import CorruptStore, DiskFull, QueueFull, UsageError

W = TypeVar("W")
R = TypeVar("R")

COUNT_MAX: Final = 128  # in a round: more of them would take longer than a turn of the event loop should
BYTES_MAX: Final = 512 << 10  # of all of them, unless one request alone has more
REFUSED: Final = (QueueFull, DiskFull, UsageError, CorruptStore)


class Round(Generic[W, R]):
    task: asyncio.Task[list[R]]

    def __init__(self) -> None:
        self.wanted: list[W] = []
        self.bytes = 0

    def has_room(self, count: int, bytes: int) -> bool:
        return len(self.wanted) + count <= COUNT_MAX and self.bytes + bytes <= BYTES_MAX


class Rounds(Generic[W, R]):
    def __init__(self, do: Callable[[list[W]], Awaitable[list[R]]]) -> None:
        """*do*: all of it, or nothing if it raises one of REFUSED; the results, in order."""
        self._do = do
        self._open: Round[W, R] | None = None  # the one that has not begun

    async def ask(self, wanted: list[W], bytes: int = 0) -> list[R]:
        """The results of what is *wanted*, which is so many *bytes* long.

        Cancelled, it may be done all the same.
        """
        joined = self._open
        if joined is None or not joined.has_room(len(wanted), bytes):
            joined = self._open = Round()
            joined.task = asyncio.create_task(self._hold(joined))
        begin = len(joined.wanted)
        joined.wanted += wanted
        joined.bytes += bytes
        try:
            results = await asyncio.shield(joined.task)
        except REFUSED:
            if len(joined.wanted) == len(wanted):
                raise
        else:
            return results[begin : begin + len(wanted)]
        return await self._do(wanted)

    async def _hold(self, round: Round[W, R]) -> list[R]:
        if self._open is round:
            self._open = None  # so the queue does not keep what the round holds
        return await self._do(round.wanted)
