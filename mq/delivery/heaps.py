"""Heaps that are looked at in order without being taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)


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
