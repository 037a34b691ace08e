"""Dropping all messages of a queue, those in flight perhaps excepted; or some of them.

One record drops them all.  It names the messages that stay with their sizes, because the fold counts
the queue's bytes anew then.  If very many are in flight, or only some are to go, the messages that go
are named instead, in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from . import records
from .now import Now
from .plan import Plan
from .queue import QueueState
from .under_way import refuse_moving

KEPT_MAX: Final = 2000  # in flight, or timed out: so many sizes are read in some milliseconds


IsMeant = Callable[[QueueState, int, Now], bool]


class Purge:
    """Of the messages that are there when it begins."""

    def __init__(
        self, *, in_flight: bool = False, ids: Sequence[int] | None = None, is_meant: IsMeant | None = None
    ) -> None:  # fmt: skip
        """*in_flight*: also of those that are in flight.  *ids*: of these alone, and only of those of which
        *is_meant* says so in the turn in which they go."""
        self._in_flight, self._ids, self._is_meant = in_flight, ids, is_meant
        self._rest: Iterator[int] = iter(())
        self._slice: list[int] = []  # the last one
        self._left = 0
        self._begun = False

    @property
    def more(self) -> bool:
        """Whether another slice is to be planned."""
        return self._left > 0

    def plan(self, plan: Plan, queue: QueueState, is_late: Callable[[], bool]) -> int:
        """Plan all of it, or a slice; how many go with it.  UsageError if the queue is that of a move."""
        if not self._begun:
            refuse_moving(plan.state, queue.name)
            if self._ids is None and len(queue.flights) <= KEPT_MAX:
                return self._plan_all(plan, queue)
            self._begun = True
            if self._ids is None:
                self._rest, self._left = queue.everything(), queue.total()
            else:
                self._rest, self._left = iter(self._ids), len(self._ids)
        gone: list[tuple[int, int]] = []
        self._slice = []
        for id in self._rest:
            self._left -= 1
            self._slice.append(id)
            if id in queue and self._goes(queue, id, plan.now):
                gone.append((id, plan.size_of(queue, id)))
            if is_late():
                break
        if gone:
            plan.add(*records.drop(queue.number, 0, gone))
        return len(gone)

    def again(self) -> None:
        """The last slice was not appended: the next one begins with it."""
        self._left += len(self._slice)
        self._rest, self._slice = chain(self._slice, self._rest), []

    def _goes(self, queue: QueueState, id: int, now: Now) -> bool:
        if not self._in_flight and queue.is_in_flight(id, now):
            return False
        return self._is_meant is None or self._is_meant(queue, id, now)

    def _plan_all(self, plan: Plan, queue: QueueState) -> int:
        staying = [] if self._in_flight else queue.ids_in_flight(plan.now)
        count = queue.total() - len(staying)
        if count:
            kept = [(id, plan.size_of(queue, id)) for id in staying]
            cutoff = records.ALL_IN_FLIGHT if self._in_flight else plan.now.store
            plan.add(*records.purge(queue.number, cutoff, kept))
        return count
