"""What queues tell the state that holds them: who has changed, and when something falls due.

Something falls due when there is work to be done that nobody asked for: messages expire,
last attempts time out, a queue has been idle for long enough.  It is done by whoever
comes by, so what everybody looks at is one number: `next`.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from .events import Now

if TYPE_CHECKING:
    from .queue import QueueState

NEVER: Final = 1 << 63


class Board:
    __slots__ = ("_ahead", "_store", "_wall", "next", "seen", "touched")

    def __init__(self) -> None:
        # Store time, ms: until then nothing falls due, unless the wall clock jumps.  0 at first: only
        # `due`, which is told both times, can say when what is noted by wall time falls due.
        self.next = 0
        self.seen = 0  # store time, ms: it is later than that
        self.touched: list[QueueState] = []  # changed since they were counted
        self._store: list[tuple[int, int]] = []  # when, queue number; by store time
        self._wall: list[tuple[int, int]] = []  # and by wall time
        self._ahead = 0  # store time less wall time, when it was last known

    def at_store(self, when: int, number: int) -> None:
        heappush(self._store, (when, number))
        self.next = min(self.next, when)

    def at_wall(self, when: int, number: int) -> None:
        heappush(self._wall, (when, number))
        self.next = min(self.next, when + self._ahead)

    def due(self, now: Now) -> int | None:
        """A queue that has work to do; None if there is none, and `next` says when to look again."""
        for heap, time in ((self._store, now.store), (self._wall, now.wall)):
            if heap and heap[0][0] <= time:
                return heap[0][1]
        self._ahead = now.store - now.wall
        self.next = min(
            self._store[0][0] if self._store else NEVER,
            self._wall[0][0] + self._ahead if self._wall else NEVER,
        )
        return None

    def done(self, number: int, now: Now) -> None:
        """What *number* had to do by now is done, or put down again."""
        for heap, time in ((self._store, now.store), (self._wall, now.wall)):
            while heap and heap[0][0] <= time and heap[0][1] == number:
                heappop(heap)
