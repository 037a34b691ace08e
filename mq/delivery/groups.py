"""Groups: of each, one message at a time, in publish order.

    "customer-7"   4711  4799  5020 …        first: the oldest that is still here, and has not expired
                     ▲
                     in flight, delayed or ready: the others wait for it, in each case

An id stays until it comes up and its message is gone or has expired, so settling a message costs
nothing here.  A wall clock that is set back brings back what had expired: then the whole index is
made anew.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from heapq import heapify, heappop, heappush, merge
from typing import Final

from .blocks import Blocks
from .heaps import ascending

STALE_MAX: Final = 16


class Group:
    __slots__ = ("_expiring", "_ids", "count", "in_flight", "turn")

    def __init__(self) -> None:
        self._ids: list[int] = []  # a heap of those that never expire
        self._expiring: Blocks | None = None  # the others
        self.count = 0  # messages that are here
        self.in_flight: int | None = None  # the id of the one in flight
        self.turn: int | None = None  # the first, if `Ready` knows when it expires

    @property
    def alone(self) -> int | None:
        """The only one that ever joined, if it does not expire and is not in flight."""
        return self._ids[0] if len(self._ids) == self.count == 1 and self.in_flight is None else None

    def join(self, id: int, expires: int) -> None:
        self.count += 1
        if not expires:
            heappush(self._ids, id)
            return
        if self._expiring is None:
            self._expiring = Blocks()
        self._expiring.add(id, 0, expires)

    def leave(self, id: int, here: Container[int]) -> None:
        """*id* is gone; *here*: what is not, and has not expired."""
        self.count -= 1
        if self.in_flight == id:
            self.in_flight = None
        if len(self._ids) > 2 * self.count + STALE_MAX:
            self._ids = [each for each in self._ids if each in here]
            heapify(self._ids)
        if self._expiring and self._expiring.size > 2 * self.count + STALE_MAX:
            self._expiring.sweep(here.__contains__)

    def first(self, here: Container[int], wall_ms: int) -> int | None:
        """The oldest of those that are *here*."""
        ids = self._ids
        while ids and ids[0] not in here:
            heappop(ids)
        first = ids[0] if ids else None
        if self._expiring:
            other = self._expiring.first(wall_ms, here.__contains__)
            if other is not None and (first is None or other < first):
                return other
        return first

    def members(self, here: Container[int], wall_ms: int) -> Iterator[int]:
        """Those that are *here*, in order."""
        expiring = self._expiring.ready(wall_ms, here.__contains__) if self._expiring else ()
        last = None
        for id in merge(filter(here.__contains__, ascending(self._ids)), expiring):
            if id != last:
                last = id
                yield id
