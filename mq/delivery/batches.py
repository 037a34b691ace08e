"""Entries that have come due, and that no question has needed to know one by one yet.

    deadlines, dues ──► batch │ batch │ batch … ──► opened: each entry goes where its message belongs
                        resting: it is known to hold nothing that is ready before some time
                        next: it may; the one with the lowest rank is opened first
                        last: what is not tried again

Hundreds of thousands of messages may come due at one moment, and the operation that notes it has the
store's lock.  So what comes due is only cut into batches then.  A batch is opened when a message in
it could be the next, and one by each operation that asks, until all are open.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, Final

import msgspec

from .blocks import STEP_BITS

BATCH_IDS: Final = 512
ID: Final = (1 << STEP_BITS) - 1


class Batch(msgspec.Struct, frozen=True, order=True, gc=False):
    """Entries of one kind, in the order of their times."""

    rank: int  # the lowest
    key: Any  # which kind
    times: array[int]
    ids: Sequence[int]


class Batches:
    """All that are not open."""

    __slots__ = ("_last", "_next", "_ready_by", "_resting", "size")

    def __init__(self) -> None:
        self._next: list[Batch] = []  # a heap: what may be ready
        self._resting: list[tuple[int, Batch]] = []  # a heap: nothing is ready before; store time
        self._last: list[Batch] = []  # what is not tried again
        self._ready_by = 0  # store time: when all that is to be ready will be
        self.size = 0  # ids in all of them

    def __len__(self) -> int:
        return len(self._next) + len(self._resting) + len(self._last)

    def add(
        self, key: Any, level: int, times: array[int], ids: Sequence[int],
        ready_from: Callable[[int], int | None], ready_by: int, now_ms: int,
    ) -> None:  # fmt: skip
        """Entries of priority *level*, in the order of their times.

        *ready_from*: for a time, when an entry of then can be ready at the earliest; None: never again.
        *ready_by*: when all of them are, but for what is not tried again.
        """
        self.size += len(ids)
        self._ready_by = max(self._ready_by, ready_by) if self else ready_by
        for at in range(0, len(ids), BATCH_IDS):
            some, these = times[at : at + BATCH_IDS], ids[at : at + BATCH_IDS]
            lowest = these[0] if some[0] == some[-1] else min(these)
            batch = Batch(lowest - (level << STEP_BITS), key, some, these)
            when = ready_from(some[0])
            if when is None:
                self._last.append(batch)
            elif when > now_ms:
                heappush(self._resting, (when, batch))
            else:
                heappush(self._next, batch)

    def pass_to(self, now_ms: int) -> None:
        """The time is *now_ms*: what rested until then may be ready."""
        while self._resting and self._resting[0][0] <= now_ms:
            heappush(self._next, heappop(self._resting)[1])

    @property
    def bound(self) -> int | None:
        """No message in here that is ready has a lower rank; None: none is ready."""
        return self._next[0].rank if self._next else None

    @property
    def lowest(self) -> int | None:
        """No message in here that is ready has a lower id; None: none is ready."""
        return min([batch.rank & ID for batch in self._next], default=None)

    @property
    def last_count(self) -> int:
        """How many batches are not tried again."""
        return len(self._last)

    def alike(self, now_ms: int) -> str | None:
        """What all messages in here are, "in_flight", "delayed" or "ready"; None if not all are the same."""
        if (len(self._last) > 0) + (len(self._resting) > 0) + (len(self._next) > 0) != 1:
            return None
        if self._next:
            return "ready" if self._ready_by <= now_ms else None
        return "in_flight" if self._last else "delayed"

    @property
    def rests_until(self) -> int | None:
        """When the first of those that rest may be ready."""
        return self._resting[0][0] if self._resting else None

    def take_next(self) -> Batch:
        """Take out the one that may hold the next message."""
        batch = heappop(self._next)
        self.size -= len(batch.ids)
        return batch

    def take_any(self) -> Batch | None:
        """Take out any; those first that have to be opened anyway."""
        if self._last:
            batch = self._last.pop()
        elif self._next:
            batch = heappop(self._next)
        elif self._resting:
            batch = heappop(self._resting)[1]
        else:
            return None
        self.size -= len(batch.ids)
        return batch
