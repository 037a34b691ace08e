"""The schedules of a store, and which of them is due next.

    by name     each with the position of its record, which holds the body of its messages
    by time     a heap of (when, name); an entry is stale if the schedule's time is another one by now

The fold puts schedules here, moves them on, and takes them out.  A schedule that is due and cannot be done
is postponed: that is this process's own, and no record says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec

from .board import STALE_MAX, Board
from .schedules import NEVER, Schedule

OVERHEAD_BYTES: Final = 128  # in the log, beside what the record holds: its header, and longer times later


class Entry:
    """A schedule, where its record stands, and what that holds."""

    __slots__ = ("position", "retry_at", "schedule", "size")

    def __init__(self, schedule: Schedule, position: int, size: int) -> None:
        self.schedule = schedule
        self.position: int | None = position  # None once it is taken out
        self.size = size  # bytes of the payload
        self.retry_at = 0  # wall time, ms: it could not be done, and is not tried before

    @property
    def when(self) -> int:
        """When it is to be looked at: wall time, ms; NEVER if it has no next tick."""
        return max(self.schedule.next, self.retry_at)


class Scheduled(msgspec.Struct, array_like=True, frozen=True):
    """An entry, as a checkpoint holds it."""

    schedule: Schedule
    position: int
    size: int


class Calendar:
    def __init__(self, board: Board, number: int) -> None:
        """*number*: under which the board calls when a schedule is due."""
        self._board, self._number = board, number
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[int, str]] = []
        self.bytes = 0  # of the log, that all of them take

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    # ── the fold ───────────────────────────────────────────────────────────────────

    def put(self, schedule: Schedule, position: int, size: int) -> None:
        """Its record, of *size* bytes, stands at *position* now, and says all there is to know."""
        entry = self._entries.get(schedule.name)
        if entry is None:
            entry = self._entries[schedule.name] = Entry(schedule, position, size)
        else:
            self.bytes -= entry.size + OVERHEAD_BYTES
            entry.schedule, entry.position, entry.size, entry.retry_at = schedule, position, size, 0
        self.bytes += size + OVERHEAD_BYTES
        self._note(entry)

    def move_on(self, name: str, next: int, last: int, late: int) -> None:
        """A tick was published, or left out: the times are these now."""
        if entry := self._entries.get(name):
            entry.schedule = msgspec.structs.replace(entry.schedule, next=next, last=last, late=late)
            entry.retry_at = 0
            self._note(entry)

    def remove(self, name: str) -> None:
        if entry := self._entries.pop(name, None):
            self.bytes -= entry.size + OVERHEAD_BYTES
            entry.position = None

    def rename(self, was: str, now: str) -> None:
        """The queue *was* is called otherwise: what is published to it goes there."""
        for entry in self._entries.values():
            if entry.schedule.queue == was and not entry.schedule.topic:
                entry.schedule = msgspec.structs.replace(entry.schedule, queue=now)
                longer = len(now.encode()) - len(was.encode())
                entry.size += longer
                self.bytes += longer

    # ── what is due ────────────────────────────────────────────────────────────────

    def first(self) -> int:
        """When something is due next: wall time, ms; NEVER if nothing is."""
        heap = self._heap
        while heap:
            when, name = heap[0]
            entry = self._entries.get(name)
            if entry and entry.when == when:
                return when
            heappop(heap)
        return NEVER

    def due(self, wall: int) -> Entry | None:
        """The schedule that is due first, if one is by now."""
        return self._entries[self._heap[0][1]] if self.first() <= wall else None

    def postpone(self, entry: Entry, until: int) -> None:
        """It cannot be done now: try again at *until*, wall time."""
        entry.retry_at = until
        self._note(entry)

    def set_alarm(self) -> None:
        """Have the board call when something is due next."""
        if (when := self.first()) < NEVER:
            self._board.at_wall(when, self._number)

    def _note(self, entry: Entry) -> None:
        if entry.when < NEVER:
            heappush(self._heap, (entry.when, entry.schedule.name))
        if len(self._heap) > 2 * len(self._entries) + STALE_MAX:
            self._heap = [(each.when, name) for name, each in self._entries.items()]
            heapify(self._heap)
        self.set_alarm()

    # ── for the cleaner, and checkpoints ───────────────────────────────────────────

    def within(self, base: int, limit: int) -> list[Entry]:
        """Those whose record stands in [base, limit)."""
        every = self._entries.values()
        return [each for each in every if each.position is not None and base <= each.position < limit]

    def kept(self) -> list[Scheduled]:
        return [Scheduled(each.schedule, each.position or 0, each.size) for each in self._entries.values()]

    def restore(self, kept: Iterable[Scheduled]) -> None:
        for each in kept:
            self.put(each.schedule, each.position, each.size)
