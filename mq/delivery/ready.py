"""Ids that are ready beside the lanes and do not expire: a heap for each priority.

    priority 9   4711  4802 …
    priority 0    12    13    15   …

Entries may be out of date: the caller says which ids are ready, and the others are dropped
when they come up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from .heaps import ascending
from .passing import STEP_BITS

IsReady = Callable[[int], bool]


class Ready:
    __slots__ = ("_heaps", "size")

    def __init__(self) -> None:
        self._heaps: dict[int, list[int]] = {}  # by priority; none is empty
        self.size = 0  # ids in all of them

    def __bool__(self) -> bool:
        return bool(self._heaps)

    def add(self, id: int, level: int) -> None:
        heap = self._heaps.get(level)
        if heap is None:
            self._heaps[level] = [id]
        else:
            heappush(heap, id)
        self.size += 1

    def first(self, is_ready: IsReady) -> int | None:
        """The rank of the first that is ready; those before it are dropped."""
        while self._heaps:
            level = max(self._heaps)
            id = self._first_of(level, is_ready)
            if id is not None:
                return id - (level << STEP_BITS)
        return None

    def ranks(self, is_ready: IsReady) -> Iterator[int]:
        """Of all that are ready, in order; nothing is dropped."""
        for level in sorted(self._heaps, reverse=True):
            last = None
            for id in ascending(self._heaps[level]):
                if id != last and is_ready(id):
                    last = id
                    yield id - (level << STEP_BITS)

    def oldest(self, is_ready: IsReady) -> Iterator[int]:
        """The lowest id of each priority that is ready."""
        for level in list(self._heaps):
            id = self._first_of(level, is_ready)
            if id is not None:
                yield id

    def _first_of(self, level: int, is_ready: IsReady) -> int | None:
        heap = self._heaps[level]
        while not is_ready(heap[0]):
            self.size -= 1
            if len(heap) == 1:
                del self._heaps[level]
                return None
            heappop(heap)
        return heap[0]
