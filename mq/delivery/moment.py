"""The time as one queue has seen it, and what follows from it for its messages.

The fold knows no time.  A question names one (`now`), and what came due by then is noted once, in the
indexes (timers.py, ready.py).  Between two questions they all stand at this moment.
"""

from __future__ import annotations

from typing import Final

from .board import NEVER
from .retry import Backoff
from .traits import Delayed, Flight

ID: Final = (1 << 64) - 1
SCATTER: Final = 0x9E37_79B9_7F4A_7C15  # spreads receipts, and ids, evenly


class Moment:
    __slots__ = ("attempts_max", "backoff", "plain_until", "store", "wall")

    def __init__(self) -> None:
        self.store = 0  # store time, ms: what came due by then is noted.  It never goes back
        self.wall = 0  # the same for wall time; if that clock is set back, the indexes are made anew
        # Store time, ms: until then the next message is the head of `waiting`, whatever the wall clock
        # says, and a receive looks at nothing else.  0: it has to ask.
        self.plain_until = 0
        self.attempts_max = NEVER  # the queue's option
        self.backoff = Backoff()  # the queue's option

    def is_early(self, entry: Delayed) -> bool:
        """Whether its delay, or its backoff, is not over."""
        return entry.due > self.wall or entry.backoff_until > self.store

    def has_expired(self, entry: Delayed | Flight) -> bool:
        """Whether its time to live is over."""
        return 0 < entry.traits.expires <= self.wall

    def is_waiting(self, entry: Delayed) -> bool:
        """Whether it is neither early nor expired."""
        return not self.is_early(entry) and not self.has_expired(entry)

    def has_timed_out(self, flight: Flight | None) -> bool:
        """Whether the delivery has, and will be tried again."""
        return flight is not None and flight.deadline <= self.store and flight.attempts < self.attempts_max

    def is_exhausted(self, flight: Flight | None) -> bool:
        """Whether the delivery has timed out, and was the last attempt."""
        return flight is not None and flight.deadline <= self.store and flight.attempts >= self.attempts_max

    def returns_at(self, flight: Flight) -> int:
        """When a delivery that timed out is tried again, in store time: the backoff counts from its deadline.

        The spread comes from the receipt, so that all processes say the same.
        """
        chance = (flight.receipt * SCATTER & ID) / (ID + 1)
        return flight.deadline + int(self.backoff.delay(flight.attempts, chance) * 1000)

    def returns_from(self, deadline: int, attempts: int) -> int:
        """When the first of many deliveries of that *deadline* may be tried again: see `returns_at`."""
        return deadline + int(self.backoff.delay(attempts, 0) * 1000)

    def returns_by(self, deadline: int, attempts: int) -> int:
        """When the last of them is at the latest."""
        return deadline + int(self.backoff.delay(attempts, 1) * 1000)
