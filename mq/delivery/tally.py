"""How many messages have expired and are not dropped yet: counted by the millisecond.

12:05.000  12:05.007 │ 12:06.000  12:06.002 …       times, and how many expire at each
    3          1     │     4          2
                passed, together 4
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush
from typing import Any, Final

STALE_MAX: Final = 64


class Tally:
    __slots__ = ("_counts", "_live", "_passed", "_times", "_until")

    def __init__(self, times: Iterable[int] = ()) -> None:
        self._counts = dict(Counter(times))  # by time, ms; those behind `_until`
        self._times = sorted(self._counts)  # a heap of its keys
        self._live = sum(self._counts.values())
        self._passed = 0
        self._until = 0

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; the tally is not used any more."""
        return [self._counts, self._times]

    def add(self, when: int, many: int = 1) -> None:
        if when <= self._until:
            self._passed += many
            return
        self._live += many
        count = self._counts.get(when)
        if count is None:
            heappush(self._times, when)
            count = 0
        self._counts[when] = count + many

    def add_all(self, times: Iterable[int]) -> None:
        for when, count in Counter(times).items():
            if when <= self._until:
                self._passed += count
                continue
            self._live += count
            if when not in self._counts:
                heappush(self._times, when)
            self._counts[when] = self._counts.get(when, 0) + count

    def remove(self, when: int) -> None:
        if when <= self._until:
            self._passed -= 1
            return
        self._live -= 1
        self._counts[when] -= 1
        if len(self._counts) > 2 * self._live + STALE_MAX:
            self._counts = {when: count for when, count in self._counts.items() if count}
            self._times = list(self._counts)
            heapify(self._times)

    def passed(self, now: int) -> int:
        """How many have expired by *now*, which never goes back."""
        while self._times and self._times[0] <= now:
            count = self._counts.pop(heappop(self._times))
            self._live -= count
            self._passed += count
        self._until = max(self._until, now)
        return self._passed

    def left(self, now: int) -> int:
        """How many have not expired by *now*, which never goes back."""
        self.passed(now)
        return self._live
