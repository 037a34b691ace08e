"""Heaps that are looked at in order without being taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, TypeVar

from .blocks import STEP_BITS

T = TypeVar("T", bound=Any)
IsReady = Callable[[int], bool]


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


class Heaps:
    """Ids that are ready beside the lanes and do not expire: a heap for each priority.

        priority 9   4711  4802 …
        priority 0    12    13    15   …

    Entries may be out of date: the caller says which ids are ready, and the others are dropped
    when they come up.
    """

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
