"""Groups: of each, one message at a time, in publish order.

    "customer-7"   4711  4799  5020 …        first: the oldest that is still here
                     ▲
                     in flight, delayed or ready: the others wait for it, whatever it is

Ids are taken out of the heap when they come up and their message is gone, so settling
one costs nothing here.
"""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush
from typing import Final

STALE_MAX: Final = 16


class Group:
    __slots__ = ("_ids", "count", "flying")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self.count = 0  # messages that are here
        self.flying: int | None = None  # the one in flight

    def join(self, id: int) -> None:
        heappush(self._ids, id)
        self.count += 1

    def leave(self, id: int, here: Container[int]) -> None:
        """*id* is gone; *here*: what is not."""
        self.count -= 1
        if self.flying == id:
            self.flying = None
        if len(self._ids) > 2 * self.count + STALE_MAX:
            self._ids = [each for each in self._ids if each in here]
            heapify(self._ids)

    def first(self, here: Container[int]) -> int | None:
        """The oldest of those that are *here*."""
        ids = self._ids
        while ids and ids[0] not in here:
            heappop(ids)
        return ids[0] if ids else None

    def members(self, here: Container[int]) -> list[int]:
        return sorted({id for id in self._ids if id in here})
