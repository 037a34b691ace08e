"""The names of all queues, in order, from when a program first lists them.

There may be 65,535.  A list that is kept in order gives a part of it without going through the rest; and
a store whose queues no program lists keeps none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable


class Listing:
    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: list[str] | None = None

    def add(self, name: str) -> None:
        names = self._names
        if names is not None and name not in names[(at := bisect_left(names, name)) : at + 1]:
            insort(names, name)

    def remove(self, name: str) -> None:
        names = self._names
        if names is not None and name in names[(at := bisect_left(names, name)) : at + 1]:
            del names[at]

    def part(
        self, every: Callable[[], Iterable[str]], prefix: str, after: str, limit: int | None
    ) -> list[str]:  # fmt: skip
        """The first *limit* names (None: all) that begin with *prefix* and come behind *after*.

        *every* gives all names, in any order.
        """
        names = self._names
        if names is None:
            names = self._names = sorted(every())
        begin = max(bisect_left(names, prefix), bisect_right(names, after))
        end = bisect_right(names, prefix, begin, key=lambda name: name[: len(prefix)])
        return names[begin : end if limit is None else min(end, begin + limit)]
