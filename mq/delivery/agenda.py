"""What happens when: (time, id) pairs, the earliest first.

Times mostly come in order, for a delay or a time to live is usually the same for many
messages.  Those go to the end of two arrays, at sixteen bytes; the others into a heap.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, merge
from typing import Any, Final, Generic, Self, TypeVar

from .heaps import ascending

T = TypeVar("T", int, str)
TRIM: Final = 4096  # entries that may be used up at the front of the arrays


class Agenda(Generic[T]):
    __slots__ = ("_at", "_heap", "_ids", "_times")

    def __init__(self, pairs: Iterable[tuple[int, T]] = (), *, numbers: bool = True) -> None:
        """*numbers*: the ids are; else each takes as much as it does."""
        self._heap: list[tuple[int, T]] = []
        self._times = array("Q")
        self._ids: Any = array("Q") if numbers else []
        self._at = 0
        for when, id in sorted(pairs):
            self._times.append(when)
            self._ids.append(id)

    @classmethod
    def of(cls, times: list[int], ids: list[T]) -> Self:
        """One with these, which are no numbers; quickly, if the times are in order."""
        if times != sorted(times):
            return cls(zip(times, ids, strict=True), numbers=False)
        made = cls(numbers=False)
        made._times, made._ids = array("Q", times), ids
        return made

    def __len__(self) -> int:
        return len(self._heap) + len(self._times) - self._at

    def add(self, when: int, id: T) -> None:
        if not self._times or (when, id) > (self._times[-1], self._ids[-1]):
            self._times.append(when)
            self._ids.append(id)
        else:
            heappush(self._heap, (when, id))

    def first(self) -> tuple[int, T] | None:
        """The earliest."""
        if self._at < len(self._times):
            first = self._times[self._at], self._ids[self._at]
            return min(first, self._heap[0]) if self._heap else first
        return self._heap[0] if self._heap else None

    def ascending(self) -> Iterator[tuple[int, T]]:
        """All, the earliest first; nothing is to change meanwhile."""
        listed = ((self._times[at], self._ids[at]) for at in range(self._at, len(self._times)))
        return merge(listed, ascending(self._heap))

    def pop(self) -> None:
        """Done with the earliest."""
        if self._heap and self._heap[0] == self.first():
            heappop(self._heap)
            return
        self._at += 1
        if self._at == len(self._times):
            del self._times[:], self._ids[:]
            self._at = 0
        elif self._at >= TRIM and 2 * self._at > len(self._times):
            del self._times[: self._at], self._ids[: self._at]
            self._at = 0
