"""Objects under a name, for as long as something else refers to them.

As weakref.WeakValueDictionary, without callbacks: those run wherever the last reference
goes, and what a signal handler raises there is lost.  Entries whose object is gone are
dropped when others are added, so there are never many more of them than objects.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar
from weakref import ref

K = TypeVar("K")
T = TypeVar("T")

SPARE: Final = 64  # entries whose object is gone, beside as many as there are objects


class Weakly(Generic[K, T]):
    """Additions need a lock of the caller's, or a key that was never used."""

    def __init__(self) -> None:
        self._refs: dict[K, ref[T]] = {}
        self._limit = SPARE  # entries, before those whose object is gone are dropped

    def __len__(self) -> int:
        """How many entries there are, those included whose object is gone."""
        return len(self._refs)

    def get(self, key: K) -> T | None:
        there = self._refs.get(key)
        return there() if there else None

    def add(self, key: K, value: T) -> None:
        if len(self._refs) >= self._limit:
            for each, there in list(self._refs.items()):
                if there() is None:
                    self._refs.pop(each, None)
            self._limit = 2 * len(self._refs) + SPARE
        self._refs[key] = ref(value)

    def drop(self, key: K) -> None:
        """Nothing is under *key* any more."""
        self._refs.pop(key, None)

    def items(self) -> list[tuple[K, T]]:
        """Those that are there."""
        return [(key, value) for key, there in list(self._refs.items()) if (value := there()) is not None]
