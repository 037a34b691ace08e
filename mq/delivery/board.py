"""What queues tell the state that holds them: which have changed, and when each has work to do.

There is work to do when messages expire, last attempts time out, or a queue has been idle for long
enough.  It is done by whichever process comes by, so what every operation looks at is one number: `next`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from .discarded import Discarded
from .now import Now
from .shares import Shares

NEVER: Final = 1 << 63
STALE_MAX: Final = 64  # stale entries of a heap, beside as many as there are valid ones


class Alarms:
    """For each queue the first time at which it has work to do; the earliest of all is at hand.

    A queue that is called by an alarm sets its next one then, so one for each queue is enough.
    """

    __slots__ = ("_first", "_heap")

    def __init__(self) -> None:
        self._first: dict[int, int] = {}  # when, by queue number
        self._heap: list[tuple[int, int]] = []  # when, queue number; stale if `_first` says another time

    def add(self, when: int, number: int) -> None:
        """Call queue *number* at *when*, unless it is called earlier anyway."""
        known = self._first.get(number)
        if known is None or when < known:
            self._first[number] = when
            heappush(self._heap, (when, number))
            if len(self._heap) > 2 * len(self._first) + STALE_MAX:
                self._heap = [(when, number) for number, when in self._first.items()]
                heapify(self._heap)

    def first(self) -> tuple[int, int] | None:
        """The earliest alarm: when, queue number; None if there is none."""
        heap = self._heap
        while heap and self._first.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None

    def done(self, number: int, time: int) -> None:
        """The alarm of queue *number* has done its work, if it was for *time* or earlier."""
        if self._first.get(number, NEVER) <= time:
            del self._first[number]

    def forget(self, number: int) -> None:
        self._first.pop(number, None)


class Board:
    __slots__ = (
        "_ahead", "_store", "_wall", "changed", "discarded", "next", "seen", "shared", "sooner", "stocked"
    )  # fmt: skip

    def __init__(self) -> None:
        # Store time, ms: until then nothing falls due, unless the wall clock jumps.  0 at first: only
        # `due`, which is told both times, can say when what is noted by wall time falls due.
        self.next = 0
        self.sooner = False  # work falls due earlier than was known when a plan was begun
        self.seen = 0  # store time, ms: it is later than that
        self.changed: dict[int, None] = {}  # numbers of the queues that have changed since they were counted
        # Numbers of the queues that may hold a message, of those that are loaded.  A look that finds one
        # empty takes it out (`State.is_stocked`), and its next change brings it back.
        self.stocked: set[int] = set()
        self.shared = Shares()  # messages that several queues hold
        self.discarded = Discarded()  # what queues held that were purged, or deleted
        self._store = Alarms()  # by store time
        self._wall = Alarms()  # by wall time
        self._ahead = 0  # store time less wall time, when it was last known

    def at_store(self, when: int, number: int) -> None:
        self._store.add(when, number)
        self._call(when)

    def at_wall(self, when: int, number: int) -> None:
        self._wall.add(when, number)
        self._call(when + self._ahead)

    def _call(self, when: int) -> None:
        if when < self.next:
            self.next, self.sooner = when, True

    def set_alarms(self, number: int, store_ms: int, wall_ms: int) -> None:
        """Both, for a queue that is not loaded; NEVER: it has nothing to do."""
        if store_ms < NEVER:
            self.at_store(store_ms, number)
        if wall_ms < NEVER:
            self.at_wall(wall_ms, number)

    def due(self, now: Now) -> int | None:
        """A queue that has work to do; None if there is none, and `next` says when to look again."""
        store, wall = self._store.first(), self._wall.first()
        if store and store[0] <= now.store:
            return store[1]
        if wall and wall[0] <= now.wall:
            return wall[1]
        self._ahead = now.store - now.wall
        self.next = min(store[0] if store else NEVER, wall[0] + self._ahead if wall else NEVER)
        return None

    def done(self, number: int, now: Now) -> None:
        """What *number* had to do by now is done, or put down again."""
        self._store.done(number, now.store)
        self._wall.done(number, now.wall)

    def forget(self, number: int) -> None:
        """The queue is deleted: it has nothing to do any more, and nothing to be counted."""
        self.changed.pop(number, None)
        self.stocked.discard(number)
        self._store.forget(number)
        self._wall.forget(number)


class QueueAlarm:
    """What the board was told of one queue, so that it is told of nothing twice.  Times in ms."""

    __slots__ = ("board", "number", "store", "wall")

    def __init__(self, board: Board, number: int) -> None:
        self.board, self.number = board, number
        self.forget()

    def forget(self) -> None:
        """Tell the board again, whatever comes next."""
        self.store = self.wall = NEVER  # the earliest that it was told, by store time and by wall time

    def at_store(self, when: int) -> None:
        if when < self.store:
            self.store = when
            self.board.at_store(when, self.number)

    def at_wall(self, when: int) -> None:
        if when < self.wall:
            self.wall = when
            self.board.at_wall(when, self.number)

    def done(self, now: Now) -> None:
        """What there was to do until *now* is done, or is put off."""
        self.board.done(self.number, now)
        self.forget()
