"""What a topic retains: the newest of its messages, as far as each of its limits goes.

      dropped    over      retained                      newest
    ┌──────────┬─────────┬──────────────────────────────────┐
    │ ░░░░░░░░ │ 3  5  8 │ 12   13   15   …              91 │
    └──────────┴─────────┴──────────────────────────────────┘
                 a few, still there

A topic's messages are a queue from which nothing is taken.  What the limits leave is asked for whenever
a caller looks, and is exact.  What is over is dropped later, several at a time, as work that falls due.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple

from .backlog import Backlog
from .options import Declaration

SizeOf = Callable[[int], int]
"""The size of a message, by its id."""
CreatedOf = Callable[[int], int | None]
"""When a message was published, wall time, by its id; None if its record cannot be read."""

# How much may be over before it is dropped: a share of what is retained, but not less or more than this.
OVER_SHARE: Final = 8
OVER_COUNT: Final = (16, 1024)
OVER_BYTES: Final = (64 << 10, 1 << 20)
OVER_MS: Final = (100, 60_000)


class Retention(NamedTuple):
    """The limits of a topic.  None: no limit; without any, nothing is retained."""

    messages: int | None
    bytes: int | None
    ms: int | None  # for how long

    @classmethod
    def of(cls, declaration: Declaration) -> Retention:
        seconds = declaration.retain_for
        return cls(
            declaration.retain_count, declaration.retain_bytes,
            None if seconds is None else int(seconds * 1000),
        )  # fmt: skip

    def __bool__(self) -> bool:
        return any(limit is not None for limit in self)

    def is_over(self, count: int, size: int) -> bool:
        """Whether of *count* messages with *size* bytes so many are over that they are to be dropped."""
        if not count:
            return False
        if self.messages is not None:
            many = count - self.messages
            if many >= _some(self.messages, OVER_COUNT):
                return True
            if many > 0 and many * (size // count) >= OVER_BYTES[0]:
                return True
        return self.bytes is not None and size - self.bytes >= _some(self.bytes, OVER_BYTES)

    @property
    def stays_ms(self) -> int | None:
        """For how long a message is there at least, if no other limit is reached; None: for ever."""
        return None if self.ms is None else self.ms + _some(self.ms, OVER_MS)

    def first(
        self, waiting: Backlog, size: int, wall_ms: int, size_of: SizeOf, created_of: CreatedOf,
        most: int | None = None,
    ) -> int:  # fmt: skip
        """The index of the oldest message that the limits leave, of *waiting*, which has *size* bytes.

        Sizes are asked for only of messages that are over; if *most* of them do not tell, an earlier
        index is given, but not before *most*.
        """
        count, first = len(waiting), 0
        if self.messages is not None:
            first = max(0, count - self.messages)
        if self.bytes is not None:
            first = max(first, _first_within(waiting, size, self.bytes, size_of, most))
        if self.ms is not None:
            first = first_since(waiting, wall_ms - self.ms, created_of, first)
        return first


def _first_within(waiting: Backlog, size: int, limit: int, size_of: SizeOf, most: int | None) -> int:
    """The index of the oldest message that, with all behind it, has no more than *limit* bytes; or *most*."""
    if size <= limit:
        return 0
    for index, id in enumerate(islice(waiting, most), 1):
        size -= size_of(id)
        if size <= limit:
            return index
    return len(waiting) if most is None else min(most, len(waiting))


def first_since(waiting: Backlog, wall_ms: int, created_of: CreatedOf, first: int = 0) -> int:
    """The index of the oldest message, from index *first* on, that was published at *wall_ms* or later.

    Of a message whose time cannot be read the next one tells; behind the last it counts as later.
    """

    def is_since(index: int) -> bool:
        created_ms = None
        while created_ms is None and index < len(waiting):
            (id,), _ = waiting.slice(index, 1)
            created_ms = created_of(id)
            index += 1
        return created_ms is None or created_ms >= wall_ms

    last = len(waiting)
    if first < last and is_since(first):
        return first  # as a rule, for what is over is soon dropped
    while first < last:
        middle = (first + last) // 2
        if is_since(middle):
            last = middle
        else:
            first = middle + 1
    return first


def _some(limit: int, bounds: tuple[int, int]) -> int:
    least, most = bounds
    return min(max(least, limit // OVER_SHARE), most)
