"""What purged and deleted queues held, until it is freed.

To free 400,000 messages is one call of some 50 ms, in which no other thread of the process runs, and which
the other processes wait for if it is made with the store's lock held.  So the fold puts it here, and it is
freed in slices, beside the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from .groups import Group

SLICE: Final = 1024  # entries that are freed in one step; a queue that held fewer is freed at once


class Discarded:
    __slots__ = ("_rest", "keeps")

    def __init__(self) -> None:
        self._rest: list[Any] = []  # dicts, lists and sets
        self.keeps = False  # whether `free` is called: else all is freed as it is discarded

    def __bool__(self) -> bool:
        return len(self._rest) > 0

    def add(self, containers: list[Collection[Any]]) -> None:
        """Lists, dicts and sets that only the caller knows, and forgets."""
        if self.keeps and sum(map(len, containers)) >= SLICE:
            self._rest += containers

    def free(self, pause: Callable[[], None]) -> None:
        """Free all of it; *pause* is called between two slices.  Takes no lock."""
        freed = 0
        while self._rest:
            container = self._rest.pop()
            while container:
                freed += self._free_some(container)
                if freed >= SLICE:
                    pause()
                    freed = 0

    def _free_some(self, container: Any) -> int:
        count = min(SLICE, len(container))
        if isinstance(container, list):
            del container[-count:]
        elif isinstance(container, dict):
            for _ in range(count):
                value = container.popitem()[1]
                if isinstance(value, Group):
                    self._rest += value.contents()
        else:
            for _ in range(count):
                container.pop()
        return count
