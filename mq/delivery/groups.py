"""Groups: of each, one message at a time, or one batch, in publish order.

    "customer-7"   4711  4799  5020 …        first: the oldest that is still here, and has not expired
                     ▲
                     in flight, delayed or ready: the others wait for it, in each case

    "customer-8"   4712  4713  5021 …        taken in one batch, 4712 and 4713 are held together: 5021 waits
                     ▲     ▲                 until both are settled.  If one goes back (nacked, released,
                     in flight               timed out), so do those behind it

An id stays until it comes up and its message is gone or has expired, so settling a message costs
nothing here.  A wall clock that is set back brings back what had expired: then the whole index is
made anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterator
from heapq import heapify, heappop, heappush, merge
from typing import Final

from .blocks import Blocks
from .heaps import ascending

STALE_MAX: Final = 16
NONE: Final[list[int]] = []


class Group:
    __slots__ = ("_expiring", "_ids", "count", "in_flight", "turn")

    def __init__(self) -> None:
        self._ids: list[int] = []  # a heap of those that never expire
        self._expiring: Blocks | None = None  # the others
        self.count = 0  # messages that are here
        # The ids of those in flight, ascending.  The first one brings a list of its own: in most groups
        # none is in flight.
        self.in_flight: list[int] = NONE
        self.turn: int | None = None  # the first, if `Ready` knows when it expires

    @property
    def alone(self) -> int | None:
        """The only one that ever joined, if it does not expire and is not in flight."""
        return self._ids[0] if len(self._ids) == self.count == 1 and not self.in_flight else None

    def contents(self) -> list[list[int]]:
        """What takes long to free, if it is long."""
        return [ids for ids in (self._ids, self.in_flight) if ids is not NONE and len(ids) > STALE_MAX]

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
        self.come_back(id)
        if len(self._ids) > 2 * self.count + STALE_MAX:
            self._ids = [each for each in self._ids if each in here]
            heapify(self._ids)
        if self._expiring and self._expiring.size > 2 * self.count + STALE_MAX:
            self._expiring.sweep(here.__contains__)

    def occupy(self, id: int) -> None:
        """*id* is in flight: those that are not wait for it."""
        if not self.in_flight:
            self.in_flight = [id]
            return
        at = bisect_left(self.in_flight, id)
        if self.in_flight[at : at + 1] != [id]:
            self.in_flight.insert(at, id)

    def come_back(self, id: int) -> None:
        """*id* is not in flight any more."""
        at = bisect_left(self.in_flight, id)
        if self.in_flight[at : at + 1] == [id]:
            del self.in_flight[at]

    def behind(self, id: int) -> list[int]:
        """Those in flight that go back if *id* does."""
        return self.in_flight[bisect_right(self.in_flight, id) :]

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
