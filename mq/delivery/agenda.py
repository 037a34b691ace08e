"""What happens when: (time, id) pairs, the earliest first.

Times mostly come in order, for a delay or a time to live is usually the same for many
messages.  Those go to the end of two arrays, at sixteen bytes; the others into a heap.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Final

TRIM: Final = 4096  # entries that may be used up at the front of the arrays


class Agenda:
    __slots__ = ("_at", "_heap", "_ids", "_times")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._heap: list[tuple[int, int]] = []
        self._times, self._ids = array("Q"), array("Q")
        self._at = 0
        for when, id in sorted(pairs):
            self._times.append(when)
            self._ids.append(id)

    def __len__(self) -> int:
        return len(self._heap) + len(self._times) - self._at

    def add(self, when: int, id: int) -> None:
        if not self._times or when >= self._times[-1]:
            self._times.append(when)
            self._ids.append(id)
        else:
            heappush(self._heap, (when, id))

    def first(self) -> tuple[int, int] | None:
        """The earliest."""
        if self._at < len(self._times):
            first = self._times[self._at], self._ids[self._at]
            return min(first, self._heap[0]) if self._heap else first
        return self._heap[0] if self._heap else None

    def until(self, when: int) -> Iterator[int]:
        """The ids of all that happens until *when*, in no order."""
        yield from self._ids[self._at : bisect_right(self._times, when, self._at)]
        yield from (id for time, id in self._heap if time <= when)

    def pop(self) -> None:
        """Done with the earliest."""
        if self._heap and self._heap[0] == self.first():
            heappop(self._heap)
            return
        self._at += 1
        if self._at == len(self._times):
            self._times, self._ids, self._at = array("Q"), array("Q"), 0
        elif self._at >= TRIM and 2 * self._at > len(self._times):
            del self._times[: self._at], self._ids[: self._at]
            self._at = 0
