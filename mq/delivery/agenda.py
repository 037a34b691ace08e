"""What happens when: (time, id) pairs, the earliest first.

Times mostly come in order, for a delay or a time to live is usually the same for many
messages.  Those go to the end of two arrays, at sixteen bytes; the others into a heap.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush, merge
from typing import Any, Final, Generic, Self, TypeVar

from .heaps import ascending

T = TypeVar("T", int, str)
TRIM: Final = 4096  # entries that may be used up at the front of the arrays


class Agenda(Generic[T]):
    __slots__ = ("_heap", "_listed")

    def __init__(self, pairs: Iterable[tuple[int, T]] = (), *, numbers: bool = True) -> None:
        """*numbers*: the ids are numbers, and take eight bytes each; else any objects."""
        self._heap: list[tuple[int, T]] = []
        # Times, ids, and how many at their front are used up.  `pop` is not part of the fold, and may be
        # interrupted: so it replaces all three at once, and one array is never longer than the other.
        listed = sorted(pairs)
        ids: Any = array("Q") if numbers else []
        ids.extend(id for _, id in listed)
        self._listed = array("Q", [when for when, _ in listed]), ids, 0

    @classmethod
    def of(cls, times: list[int], ids: list[T]) -> Self:
        """One with these, which are no numbers; quickly, if the times are in order."""
        if times != sorted(times):
            return cls(zip(times, ids, strict=True), numbers=False)
        made = cls(numbers=False)
        made._listed = array("Q", times), ids, 0
        return made

    def __len__(self) -> int:
        times, _, at = self._listed
        return len(self._heap) + len(times) - at

    def add(self, when: int, id: T) -> None:
        times, ids, _ = self._listed
        if not times or when > times[-1] or (when == times[-1] and id > ids[-1]):
            times.append(when)
            ids.append(id)
        else:
            heappush(self._heap, (when, id))

    def add_run(self, when: int, run: Sequence[T]) -> None:
        """`add` for many ids of one time, in order."""
        times, ids, _ = self._listed
        if not times or (when, run[0]) > (times[-1], ids[-1]):
            times.extend([when] * len(run))
            ids.extend(run)
        else:
            for id in run:
                self.add(when, id)

    def first(self) -> tuple[int, T] | None:
        """The earliest."""
        times, ids, at = self._listed
        if at < len(times):
            first = times[at], ids[at]
            return min(first, self._heap[0]) if self._heap else first
        return self._heap[0] if self._heap else None

    def ascending(self) -> Iterator[tuple[int, T]]:
        """All, the earliest first; nothing is to change meanwhile."""
        times, ids, begin = self._listed
        listed = ((times[at], ids[at]) for at in range(begin, len(times)))
        return merge(listed, ascending(self._heap))

    def pop(self) -> None:
        """Drop the earliest."""
        if self._heap and self._heap[0] == self.first():
            heappop(self._heap)
            return
        times, ids, at = self._listed
        at += 1
        if at == len(times) or (at >= TRIM and 2 * at > len(times)):
            times, ids, at = times[at:], ids[at:], 0
        self._listed = times, ids, at
