"""One queue: what waits, what is delayed, what is in flight.

                 deliver                       ack
    ┌─────────┐ ─────────────► ┌───────────┐ ─────────► gone
    │ waiting │                │ in flight │
    └─────────┘   ┌─────────┐ ◄── nack ──┘ │
       publish    │ delayed │ ◄── release ─┘
                  └─────────┘ ── deliver, once due ──►
    A flight whose deadline has passed is ready too, and stays settleable until it is
    delivered again.

The methods named after records are the fold: they do what the record says, and only
they change what is true.  The others answer questions at a time; the heaps they keep
are indexes over what is true, cleaned as they are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush, merge, nsmallest
from itertools import islice
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from .backlog import Backlog
from .events import DELAYED, IN_FLIGHT, TIMED_OUT, WAITING, Declaration, Now, Options

State = Literal["ready", "delayed", "in_flight"]
STALE_MAX: Final = 64  # index entries that may be out of date before they are swept


class Flight(msgspec.Struct, frozen=True, gc=False):
    """A delivery that is not settled.  Deadline in store time, ms."""

    receipt: int  # the position of its DELIVER record
    deadline: int
    attempts: int
    position: int  # of the record that holds the body


class Delayed(msgspec.Struct, frozen=True, gc=False):
    """A message that was tried, or has to wait.  Due in wall time, ms; 0 is at once."""

    due: int
    attempts: int
    position: int


class QueueState:
    def __init__(self, number: int, name: str) -> None:
        self.number, self.name = number, name
        self.options = Options()
        self.declared_at = -1  # the position of the declaration in force
        self.waiting = Backlog()  # never delivered
        self.delayed: dict[int, Delayed] = {}
        self.flights: dict[int, Flight] = {}
        self.bytes = 0  # of all bodies that are not settled
        self.published = self.acked = self.failed = 0
        # Indexes: (when, id), by deadline and by due; and ids whose time has come.
        self._deadlines: list[tuple[int, int]] = []
        self._dues: list[tuple[int, int]] = []
        self._returned: list[int] = []
        self._aside: list[int] = []  # taken out of those for a look that is not over

    # ── the fold ───────────────────────────────────────────────────────────────────

    def publish(self, id: int, size: int) -> None:
        self.waiting.append(id)
        self.published += 1
        self.bytes += size

    def publish_run(self, ids: list[int], size: int) -> None:
        """`publish` for many, with *size* bytes together."""
        self.waiting.extend(ids)
        self.published += len(ids)
        self.bytes += size

    def declare(self, declaration: Declaration, position: int) -> None:
        self.name, self.options, self.declared_at = declaration.name, declaration.options, position
        self.published, self.acked, self.failed = declaration.published, declaration.acked, declaration.failed

    def deliver(self, id: int, receipt: int, deadline: int, flags: int) -> Flight | None:
        """The new flight; None if the message is not here any more."""
        if flags & TIMED_OUT:
            self.failed += 1
        attempts = 1
        if id == self.waiting.head:
            position = self.waiting.take(id)
        elif tried := self.flights.get(id) or self.delayed.pop(id, None):
            attempts, position = tried.attempts + 1, tried.position
        else:
            position = self.waiting.take(id)
        if position is None:
            return None
        flight = self.flights[id] = Flight(receipt, deadline, attempts, position)
        self._watch(id, deadline)
        while self._returned and self._returned[0] == id:
            heappop(self._returned)
        return flight

    def ack(self, id: int, size: int) -> None:
        self.acked += 1
        if self.flights.pop(id, None):
            self.bytes -= size
        elif self.delayed.pop(id, None) or self.waiting.take(id) is not None:
            self.bytes -= size  # the record of its delivery was lost; that it is done was not

    def nack(self, id: int, due: int) -> None:
        self.failed += 1
        if flight := self.flights.pop(id, None):
            self.put_delayed(id, Delayed(due, flight.attempts, flight.position))

    def release(self, id: int) -> None:
        if flight := self.flights.pop(id, None):
            self.put_delayed(id, Delayed(0, flight.attempts - 1, flight.position))

    def extend(self, id: int, deadline: int) -> None:
        if flight := self.flights.get(id):
            self.put_flight(id, replace(flight, deadline=deadline))

    def purge(self, cutoff: int, kept: Iterable[tuple[int, int]]) -> None:
        """Drop all that waits, is delayed, or was in flight until *cutoff* at the most.

        *kept*: id and size of what stays.  A message among them that is not known here
        comes with its own size when its relocation is met.
        """
        self.waiting.clear()
        self.delayed.clear()
        self.flights = {id: flight for id, flight in self.flights.items() if flight.deadline > cutoff}
        self.bytes = sum(size for id, size in kept if id in self.flights)

    def relocate(
        self, id: int, position: int, size: int, attempts: int, place: int, receipt: int, when: int
    ) -> None:
        """The message's record is at *position* now.

        If the message is not known, the log begins behind its first record: then this one
        says all there is.
        """
        if flight := self.flights.get(id):
            self.flights[id] = replace(flight, position=position)
        elif delayed := self.delayed.get(id):
            self.delayed[id] = replace(delayed, position=position)
        elif id in self.waiting:
            self.waiting.move(id, position)
        else:
            self.bytes += size
            if place == WAITING:
                self.waiting.insert(id, position)
            elif place == DELAYED:
                self.put_delayed(id, Delayed(when, attempts, position))
            else:
                self.put_flight(id, Flight(receipt, when, attempts, position))

    def put_flight(self, id: int, flight: Flight) -> None:
        self.flights[id] = flight
        self._watch(id, flight.deadline)

    def put_delayed(self, id: int, entry: Delayed) -> None:
        self.delayed[id] = entry
        if not entry.due:
            heappush(self._returned, id)
            return
        heappush(self._dues, (entry.due, id))
        if len(self._dues) > 2 * len(self.delayed) + STALE_MAX:
            self._dues = [(entry.due, id) for id, entry in self.delayed.items() if entry.due]
            heapify(self._dues)

    def _watch(self, id: int, deadline: int) -> None:
        # Entries are not removed on ack: an ack is far more common than a timeout, so
        # the stale ones are paid for here, in one sweep for as many new ones.
        heappush(self._deadlines, (deadline, id))
        if len(self._deadlines) > 2 * len(self.flights) + STALE_MAX:
            self._deadlines = [(flight.deadline, id) for id, flight in self.flights.items()]
            heapify(self._deadlines)

    # ── questions ──────────────────────────────────────────────────────────────────

    def head(self, now: Now) -> int | None:
        """The id that is delivered next at *now*."""
        if (
            (self._deadlines and self._deadlines[0][0] <= now.store)
            or (self._dues and self._dues[0][0] <= now.wall)
            or self._aside
        ):
            self._return_due(now)
        returned, waiting = self._returned, self.waiting.head
        while returned and not self._is_back(returned[0], now):
            self._forget(returned[0])
            heappop(returned)
        if returned and (waiting is None or returned[0] < waiting):
            return returned[0]
        return waiting

    def heads(self, now: Now, limit: int) -> list[int]:
        """The ids that are delivered next at *now*, at most *limit*, in order."""
        self._return_due(now)
        back: list[int] = []
        while self._returned and len(back) < limit:
            id = self._returned[0]
            self._aside.append(id)  # then popped: an interruption must not lose it
            heappop(self._returned)
            if not self._is_back(id, now):
                self._forget(id)
            elif not back or back[-1] != id:
                back.append(id)
                continue
            self._aside.pop()
        self._put_back()
        return list(islice(merge(back, self.waiting), limit))

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until a deadline passes or a delay ends; None if there is none."""
        while self._deadlines and not self._is_deadline(*self._deadlines[0]):
            heappop(self._deadlines)
        while self._dues and not self._is_due(*self._dues[0]):
            heappop(self._dues)
        nexts = [self._deadlines[0][0] - now.store] if self._deadlines else []
        if self._dues:
            nexts.append(self._dues[0][0] - now.wall)
        return max(0, min(nexts)) / 1000 if nexts else None

    def position(self, id: int) -> int | None:
        """Where the message's record is; None if the message is not here."""
        tried = self.flights.get(id) or self.delayed.get(id)
        return tried.position if tried else self.waiting.position(id)

    def facts(self, id: int) -> tuple[int, int, int, int]:
        """Attempts, place, receipt, and deadline or due: what a relocation has to carry."""
        if flight := self.flights.get(id):
            return flight.attempts, IN_FLIGHT, flight.receipt, flight.deadline
        if delayed := self.delayed.get(id):
            return delayed.attempts, DELAYED, 0, delayed.due
        return 0, WAITING, 0, 0

    def tried_within(self, base: int, limit: int) -> list[int]:
        """The ids of delayed and flying messages whose records are in [base, limit)."""
        return [
            id
            for entries in (self.delayed, self.flights)
            for id, entry in entries.items()
            if base <= entry.position < limit
        ]

    def state_of(self, id: int, now: Now) -> State | None:
        """Where the message is; None if it is not here."""
        if flight := self.flights.get(id):
            return "ready" if flight.deadline <= now.store else "in_flight"
        if delayed := self.delayed.get(id):
            return "ready" if delayed.due <= now.wall else "delayed"
        return "ready" if id in self.waiting else None

    def attempts(self, id: int) -> int:
        """How often the message was delivered, and not released."""
        tried = self.flights.get(id) or self.delayed.get(id)
        return tried.attempts if tried else 0

    def ids(self, state: State, now: Now, limit: int) -> list[int]:
        """The first *limit* ids in *state*, in the order in which they will be delivered."""
        if state == "ready":
            return self.heads(now, limit)
        if state == "delayed":
            when = [(entry.due, id) for id, entry in self.delayed.items() if entry.due > now.wall]
        else:
            when = [(each.deadline, id) for id, each in self.flights.items() if each.deadline > now.store]
        return [id for _, id in nsmallest(limit, when)]

    def counts(self, now: Now) -> tuple[int, int, int]:
        """How many are ready, in flight and delayed."""
        flying = sum(flight.deadline > now.store for flight in self.flights.values())
        later = sum(entry.due > now.wall for entry in self.delayed.values())
        return self.total() - flying - later, flying, later

    def total(self) -> int:
        """All messages that are here, wherever they are."""
        return len(self.waiting) + len(self.delayed) + len(self.flights)

    def __contains__(self, id: int) -> bool:
        return id in self.flights or id in self.delayed or id in self.waiting

    def _return_due(self, now: Now) -> None:
        """Note the ids whose deadline or due has come."""
        self._put_back()  # what an interrupted look has left
        while self._deadlines and self._deadlines[0][0] <= now.store:
            deadline, id = self._deadlines[0]
            if self._is_deadline(deadline, id):
                heappush(self._returned, id)  # then popped: an interruption must not lose it
            heappop(self._deadlines)
        while self._dues and self._dues[0][0] <= now.wall:
            due, id = self._dues[0]
            if self._is_due(due, id):
                heappush(self._returned, id)
            heappop(self._dues)

    def _put_back(self) -> None:
        while self._aside:
            heappush(self._returned, self._aside[-1])  # then popped: twice does no harm
            self._aside.pop()

    def _is_back(self, id: int, now: Now) -> bool:
        if flight := self.flights.get(id):
            return flight.deadline <= now.store
        delayed = self.delayed.get(id)
        return delayed is not None and delayed.due <= now.wall

    def _forget(self, id: int) -> None:
        """Not ready after all: settled, delivered or delayed since, or the wall clock was set back."""
        if delayed := self.delayed.get(id):
            heappush(self._dues, (delayed.due, id))

    def _is_deadline(self, deadline: int, id: int) -> bool:
        flight = self.flights.get(id)
        return flight is not None and flight.deadline == deadline

    def _is_due(self, due: int, id: int) -> bool:
        entry = self.delayed.get(id)
        return entry is not None and entry.due == due
