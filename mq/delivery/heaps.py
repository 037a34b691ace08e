"""Ids that came back, by priority; and heaps that are looked at in order without being taken apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from heapq import heappop, heappush, heapreplace, merge
from itertools import islice
from typing import Any, Final, TypeVar

from .blocks import STEP_BITS

T = TypeVar("T", bound=Any)
IsReady = Callable[[int], bool]
RUN_LEAST: Final = 8  # ids; fewer are pushed one by one


def ascending(heap: Sequence[T]) -> Iterator[T]:
    """The items of *heap*, the smallest first: the next one costs the logarithm of those before it.

    The heap does not change, and must not, for as long as they are asked for.
    """
    ahead = [(heap[0], 0)] if heap else []
    while ahead:
        item, at = heappop(ahead)
        yield item
        for below in (2 * at + 1, 2 * at + 2):
            if below < len(heap):
                heappush(ahead, (heap[below], below))


class Level:
    """The ids of one priority: a heap, and runs that ascend, which are merged as they are asked for."""

    __slots__ = ("heap", "runs")

    def __init__(self) -> None:
        self.heap: list[int] = []
        # A heap of runs: the first id that is left, its index, and the ids.
        self.runs: list[tuple[int, int, Sequence[int]]] = []

    def first(self) -> int | None:
        heap, runs = self.heap, self.runs
        if runs and (not heap or runs[0][0] < heap[0]):
            return runs[0][0]
        return heap[0] if heap else None

    def pop(self) -> None:
        """Drop the first."""
        heap, runs = self.heap, self.runs
        if not runs or (heap and heap[0] <= runs[0][0]):
            heappop(heap)
            return
        _, at, ids = runs[0]
        if at + 1 < len(ids):
            heapreplace(runs, (ids[at + 1], at + 1, ids))
        else:
            heappop(runs)

    def ascending(self) -> Iterator[int]:
        return merge(ascending(self.heap), *[islice(ids, at, None) for _, at, ids in self.runs])


class Heaps:
    """Ids that are ready beside the lanes and do not expire, for each priority.

        priority 9   4711  4802 …
        priority 0    12    13    15   …

    Entries may be out of date: the caller says which ids are ready, and the others are dropped
    when they come up.
    """

    __slots__ = ("_levels", "size")

    def __init__(self) -> None:
        self._levels: dict[int, Level] = {}  # by priority; none is empty
        self.size = 0  # ids in all of them

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; this is not used any more."""
        found: list[Collection[Any]] = []
        for level in self._levels.values():
            found += [ids for _, _, ids in level.runs if isinstance(ids, list)]
            found += [level.heap, level.runs]
        return found

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, id: int, level: int) -> None:
        found = self._levels.get(level)
        if found is None:
            found = self._levels[level] = Level()
        heappush(found.heap, id)
        self.size += 1

    def add_run(self, ids: Sequence[int], level: int) -> None:
        """`add` for many, which ascend."""
        if len(ids) < RUN_LEAST:
            for id in ids:
                self.add(id, level)
            return
        found = self._levels.get(level)
        if found is None:
            found = self._levels[level] = Level()
        heappush(found.runs, (ids[0], 0, ids))
        self.size += len(ids)

    def first(self, is_ready: IsReady) -> int | None:
        """The rank of the first that is ready; those before it are dropped."""
        while self._levels:
            level = max(self._levels)
            id = self._first_of(level, is_ready)
            if id is not None:
                return id - (level << STEP_BITS)
        return None

    def ranks(self, is_ready: IsReady) -> Iterator[int]:
        """Of all that are ready, in order; nothing is dropped."""
        for level in sorted(self._levels, reverse=True):
            last = None
            for id in self._levels[level].ascending():
                if id != last and is_ready(id):
                    last = id
                    yield id - (level << STEP_BITS)

    def oldest(self, is_ready: IsReady) -> Iterator[int]:
        """The lowest id of each priority that is ready."""
        for level in list(self._levels):
            id = self._first_of(level, is_ready)
            if id is not None:
                yield id

    def _first_of(self, level: int, is_ready: IsReady) -> int | None:
        found = self._levels[level]
        while (id := found.first()) is not None:
            if is_ready(id):
                return id
            self.size -= 1
            found.pop()
        del self._levels[level]
        return None
