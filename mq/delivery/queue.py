"""One queue: what waits, what is delayed, what is in flight.

                 deliver                       ack
    ┌─────────┐ ─────────────► ┌───────────┐ ─────────► gone
    │ waiting │                │ in flight │
    └─────────┘   ┌─────────┐ ◄── nack ──┘ │ │
       publish    │ delayed │ ◄── release ─┘ └─ move ──► the dead letters, and back
                  └─────────┘ ── deliver, once due ──►
    A flight whose deadline has passed is ready too, after a backoff, and stays settleable
    until it is delivered again.

The methods named after records are the fold: they do what the record says, and only
they change what is true.  What is next is in order.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count, islice, repeat
from typing import Literal

from msgspec.structs import replace

from . import idle
from .attributes import Attributes, Changes, Failed
from .backlog import Backlog
from .board import NEVER, Board
from .dedup import FORGET_AFTER_MS, Remembered, Seen
from .now import Now
from .options import Declaration
from .order import ID, STALE_MAX, Order
from .records import (
    BACKING_OFF,
    DECLARATION_BYTES,
    DELAYED,
    IN_FLIGHT,
    MESSAGE_OVERHEAD_BYTES,
    TIMED_OUT,
    TIMEOUT_REASON,
    WAITING,
)
from .runs import Run
from .traits import LEVELS, PLAIN, Delayed, Flight, Traits, traits_of, weight, with_failure

__all__ = ["ID", "STALE_MAX", "Delayed", "Flight", "QueueState", "State"]

State = Literal["ready", "delayed", "in_flight"]


class QueueState(Order):
    def __init__(self, number: int, name: str, board: Board | None = None) -> None:
        self.dedup = Remembered()
        super().__init__(number, board or Board())
        self.name = name
        self.options = Declaration(name=name)
        self.declared_at = -1  # the position of the declaration in force
        self.gone = False  # deleted
        self.idle_until = 0  # store time; see idle.py
        self.idle_seconds: float | None = None  # how long it stays at least, without receivers
        self.bytes = 0  # of all that was published and is not settled
        self.published = self.acked = self.failed = 0
        self.expirations = self.dead_lettered = self.dropped = 0
        # What an operation has to look at, so that plain queues have nothing to look at.
        self.bounded = False  # somebody may wait for room
        self.publish_needs_plan = False  # a publish is more than a body
        self.unchanged = True  # nothing has changed since it was counted, or struck off as empty
        self.counted = (0, 0)

    def mark_changed(self) -> None:
        """Something changes: count it again; it may hold a message."""
        self.unchanged = False
        self.board.changed[self.number] = self
        self.board.stocked.add(self.number)

    # ── the fold ───────────────────────────────────────────────────────────────────

    def publish(self, id: int, size: int) -> None:
        self.waiting.append(id)
        self.published += 1
        self.bytes += size
        if self.unchanged:
            self.mark_changed()

    def publish_run(self, ids: list[int], size: int) -> None:
        """`publish` for many, with *size* bytes together."""
        self.waiting.extend(ids)
        self.published += len(ids)
        self.bytes += size
        if self.unchanged:
            self.mark_changed()

    def publish_with(self, id: int, size: int, said: Attributes) -> None:
        """`publish`, with attributes."""
        self.published += 1
        self.bytes += size
        if said.dedup_id is not None:
            self.dedup.forget(self.board.seen)
            self.dedup.note(said.dedup_id, Seen(id, said.dedup_until, id))
            self._alarm_store(said.dedup_until + FORGET_AFTER_MS)
        traits = traits_of(said)
        if said.due or not traits.plain:
            self.join(id, traits)
            self.put_delayed(id, Delayed(said.due, 0, id, traits))
        else:
            self.lane(traits.priority).append(id)
        if self.unchanged:
            self.mark_changed()

    def do_run(self, run: Run) -> bool:
        """All that *run* says; False if only the publishes were done, and the others are no run."""
        if run.published:
            self.publish_run(run.published, sum(run.sizes))
        if run.delivered:
            positions = self.waiting.take_run(run.delivered)
            if positions is None:
                return False
            if run.in_flight:
                places = dict(zip(run.delivered, positions, strict=True))
                for id, (receipt, deadline) in run.in_flight.items():
                    flight = self.flights[id] = Flight(receipt, deadline, 1, places[id])
                    self.watch(id, flight)
            self.acked += len(run.freed)
            self.bytes -= sum(run.freed)
        if run.acked:
            self.ack_run(run.acked, run.acked_sizes)
        if self.unchanged:
            self.mark_changed()
        return True

    def declare(self, declaration: Declaration, position: int) -> None:
        said, self.declared_at = declaration, position
        self.name, self.options, self.paused = said.name, said, said.paused
        self.published, self.acked, self.failed = said.published, said.acked, said.failed
        self.expirations, self.dead_lettered, self.dropped = (
            said.expirations, said.dead_lettered, said.dropped
        )  # fmt: skip
        self.bounded = said.max_length is not None or said.max_bytes is not None
        self.publish_needs_plan = self.bounded or said.ttl is not None
        self.idle_until, self.idle_seconds = said.idle_until, idle.shortest(said)
        self.delivery_needs_plan = said.delivery == "at_most_once" or self.idle_seconds is not None
        self.plain = False  # to be looked at
        if self.idle_seconds is not None:
            self.board.at_store(self.idle_until, self.number)
        attempts_max = NEVER if said.max_attempts is None else said.max_attempts
        if (attempts_max, said.backoff) != (self.attempts_max, self.backoff):
            self.attempts_max, self.backoff = attempts_max, said.backoff
            self.reindex()
        if self.unchanged:
            self.mark_changed()

    def remember(self, key: str, seen: Seen) -> None:
        """A dedup id is remembered still, though the record that said so goes."""
        self.dedup.again(key, seen)
        self._alarm_store(seen.until + FORGET_AFTER_MS)
        self.mark_changed()

    def renew(self, until: int) -> None:
        """Somebody has received from it: it is not idle until then."""
        self.idle_until = until

    def deliver(self, id: int, receipt: int, deadline: int, flags: int) -> Flight | None:
        """The new flight; None if the message is not here any more."""
        if flags & TIMED_OUT:
            self.failed += 1
        if id == self.waiting.head:
            position = self.waiting.take(id)
            assert position is not None
            flight = self.flights[id] = Flight(receipt, deadline, 1, position)
            self.watch(id, flight)
        else:
            taken = self._take_to_deliver(id)
            if taken is None:
                return None
            flight = Flight(receipt, deadline, taken.attempts + 1, taken.position, taken.traits)
            self.put_flight(id, flight)
        if self.unchanged:
            self.mark_changed()
        return flight

    def deliver_run(
        self, ids: list[int], receipt: int, deadline: int, flags: int
    ) -> Sequence[Flight | None]:  # fmt: skip
        """`deliver` for many: the receipt of each is one more than that of the one before."""
        positions = self.waiting.take_run(ids)
        if positions is None:
            return [self.deliver(id, receipt + n, deadline, flags) for n, id in enumerate(ids)]
        if flags & TIMED_OUT:
            self.failed += len(ids)
        # The receipt of each is one more than that of the one before.
        flights = list(map(Flight, count(receipt), repeat(deadline), repeat(1), positions))
        self.flights.update(zip(ids, flights, strict=True))
        if deadline > self._store_seen:
            self.watch_run(ids, deadline)
        else:
            for id, flight in zip(ids, flights, strict=True):
                self.watch(id, flight)
        if self.unchanged:
            self.mark_changed()
        return flights

    def _take_to_deliver(self, id: int) -> Delayed | None:
        if flight := self.take_flight(id):
            failure = Failed(flight.deadline, flight.attempts, TIMEOUT_REASON)
            return Delayed(0, flight.attempts, flight.position, self._failing(flight.traits, failure))
        return self.take_delayed(id) or self._take_waiting(id)

    def _failing(self, traits: Traits, failure: Failed) -> Traits:
        """The traits with one failure more; counted."""
        more = with_failure(traits, failure)
        self.history_bytes += weight(more) - weight(traits)
        return more

    def ack(self, id: int, size: int) -> None:
        self.acked += 1
        flight = self.flights.pop(id, None)
        if flight:
            self.bytes -= size
            if flight.deadline <= self._store_seen:
                self.undo_time_out(flight)
            if flight.traits is not PLAIN:
                self.depart(id, flight.traits)
        elif self.take(id):
            self.bytes -= size  # it arrived settled; or the record of its delivery was lost
        if self.unchanged:
            self.mark_changed()

    def ack_run(self, ids: Sequence[int], sizes: Sequence[int]) -> None:
        """`ack` for many."""
        traits = [each.traits for each in map(self.flights.get, ids) if each]
        if self._timed_out or not traits.count(PLAIN) == len(set(ids)) == len(ids):
            for id, size in zip(ids, sizes, strict=True):
                self.ack(id, size)
        else:
            self.ack_plain(ids, sizes)

    def ack_plain(self, ids: Sequence[int], sizes: Sequence[int]) -> None:
        """`ack_run`, for those that `are_plain`."""
        self.acked += len(ids)
        self.bytes -= sum(sizes)
        deque(map(self.flights.__delitem__, ids), maxlen=0)
        if self.unchanged:
            self.mark_changed()

    def nack(self, id: int, due: int, at: int = 0, reason: str = "", rests: bool = False) -> None:
        """*rests*: the due is in store time."""
        self.failed += 1
        if flight := self.take_flight(id):
            traits = self._failing(flight.traits, Failed(at, flight.attempts, reason))
            self.end_turn(traits)
            wall, store = (0, due) if rests else (due, 0)
            self.put_delayed(id, Delayed(wall, flight.attempts, flight.position, traits, store))
            self.mark_changed()

    def release(self, id: int) -> None:
        if flight := self.take_flight(id):
            self.end_turn(flight.traits)
            self.put_delayed(id, Delayed(0, flight.attempts - 1, flight.position, flight.traits))

    def extend(self, id: int, deadline: int) -> None:
        if flight := self.take_flight(id):
            self.put_flight(id, replace(flight, deadline=deadline))

    def reschedule(self, id: int, due: int) -> None:
        if entry := self.take_delayed(id):
            self.put_delayed(id, replace(entry, due=due, rests=0))
        elif found := self.take_waiting(id):
            self.put_delayed(id, Delayed(due, 0, found[0], LEVELS[found[1]]))

    def take(self, id: int) -> Flight | Delayed | None:
        """Take a message out, wherever it is."""
        entry = self.take_flight(id) or self.take_delayed(id) or self._take_waiting(id)
        if entry:
            if entry.traits is not PLAIN:
                self.depart(id, entry.traits)
            if self.unchanged:
                self.mark_changed()
        return entry

    def _take_waiting(self, id: int) -> Delayed | None:
        found = self.take_waiting(id)
        return Delayed(0, 0, found[0], LEVELS[found[1]]) if found else None

    def drop(self, id: int, size: int) -> None:
        """Expired, cancelled, or one of too many."""
        if self.take(id):
            self.bytes -= size

    def arrive(self, arriving: dict[int, Delayed], size: int) -> None:
        """Messages that were not here, of *size* bytes together, wait here now."""
        self.bytes += size
        lanes: dict[int, list[int]] = {}
        for id, entry in arriving.items():
            traits = entry.traits
            if entry.attempts or entry.due or not traits.plain:
                self.join(id, traits)
                self.put_delayed(id, entry)
            else:
                lanes.setdefault(traits.priority, []).append(id)
        for priority, ids in lanes.items():
            ids.sort()
            self.lane(priority).insert(ids, [arriving[id].position for id in ids])
        self.mark_changed()

    def purge(self, cutoff: int, kept: Iterable[tuple[int, int]]) -> None:
        """Drop all that waits, is delayed, or was in flight until *cutoff* at the most.

        *kept*: id and size of what stays.  A message among them that is not known here
        comes with its own size when its relocation is met.
        """
        self.waiting.clear()
        self.lanes.clear()
        self.delayed.clear()
        self.flights = {id: flight for id, flight in self.flights.items() if flight.deadline > cutoff}
        self.bytes = sum(size for id, size in kept if id in self.flights)
        self.reindex()
        self.mark_changed()

    def delete(self) -> None:
        """The queue goes, with all it holds."""
        self.purge(1 << 64, ())
        self.gone, self.bytes, self.dedup = True, 0, Remembered()

    def relocate(
        self, id: int, position: int, size: int, attempts: int, place: int, receipt: int, when: int,
        said: Attributes | None = None, changes: Changes | None = None,
    ) -> None:  # fmt: skip
        """The message's record is at *position* now.

        If the message is not known, the log begins behind its first record: then this one
        says all there is.
        """
        if flight := self.flights.get(id):
            self.flights[id] = replace(flight, position=position)
        elif delayed := self.delayed.get(id):
            self.delayed[id] = replace(delayed, position=position)
        elif lane := self._lane_of(id):
            lane.move(id, position)
        else:
            traits = traits_of(said, changes) if said else PLAIN
            if place == WAITING:
                self.arrive({id: Delayed(0, attempts, position, traits)}, size)
            elif place in (DELAYED, BACKING_OFF):
                self.bytes += size
                self.join(id, traits)
                wall, store = (when, 0) if place == DELAYED else (0, when)
                self.put_delayed(id, Delayed(wall, attempts, position, traits, store))
            else:
                self.bytes += size
                self.join(id, traits)
                self.put_flight(id, Flight(receipt, when, attempts, position, traits))
            self.mark_changed()

    # ── questions ──────────────────────────────────────────────────────────────────

    def set_alarms(self) -> None:
        super().set_alarms()
        if (when := self.dedup.look_at) is not None:
            self._alarm_store(when)

    def reset_alarms(self, now: Now) -> None:
        super().reset_alarms(now)
        if (when := idle.look_at(self, now)) is not None:
            self.board.at_store(when, self.number)

    def position(self, id: int) -> int | None:
        """Where the message's record is; None if the message is not here."""
        tried = self.flights.get(id) or self.delayed.get(id)
        if tried:
            return tried.position
        lane = self._lane_of(id)
        return lane.position(id) if lane else None

    def facts(self, id: int) -> tuple[int, int, int, int]:
        """Attempts, place, receipt, and deadline or due: what a relocation has to carry."""
        if flight := self.flights.get(id):
            return flight.attempts, IN_FLIGHT, flight.receipt, flight.deadline
        if delayed := self.delayed.get(id):
            if delayed.rests:
                return delayed.attempts, BACKING_OFF, 0, delayed.rests
            return delayed.attempts, DELAYED, 0, delayed.due
        return 0, WAITING, 0, 0

    def state_of(self, id: int, now: Now) -> State | None:
        """Where the message is; None if it is not here."""
        if flight := self.flights.get(id):
            if flight.deadline > now.store or flight.attempts >= self.attempts_max:
                return "in_flight"  # its last attempt, until somebody comes by
            return "delayed" if self.returns_at(flight) > now.store else "ready"
        if delayed := self.delayed.get(id):
            return "ready" if delayed.due <= now.wall and delayed.rests <= now.store else "delayed"
        return "ready" if self._lane_of(id) else None

    def changes_at(self, id: int, now: Now) -> int | None:
        """When a message that is not ready will be, in its clock's time."""
        if flight := self.flights.get(id):
            flies = self.state_of(id, now) == "in_flight"
            return flight.deadline if flies else self.returns_at(flight)
        delayed = self.delayed.get(id)
        return delayed.rests or delayed.due if delayed else None

    def rests(self, id: int) -> bool:
        """Whether a message that is delayed is so by a backoff: until then, in store time."""
        delayed = self.delayed.get(id)
        return delayed is None or bool(delayed.rests)

    def are_plain(self, ids: list[int], flights: list[Flight]) -> bool:
        """Whether *flights* are those in force of *ids*, each once, and acking them concerns nothing else.

        *flights* are of messages that are nothing but their bodies.
        """
        if self.bounded or self._timed_out or len(set(ids)) < len(ids):
            return False
        return list(map(self.flights.get, ids)) == flights

    def attempts(self, id: int) -> int:
        """How often the message was delivered, and not released."""
        tried = self.flights.get(id) or self.delayed.get(id)
        return tried.attempts if tried else 0

    def ids(self, state: State, now: Now, limit: int) -> list[int]:
        """The first *limit* ids in *state*, in the order in which they will be delivered."""
        if state == "ready":
            return self.listed(now, limit)
        self.advance(now)
        ids = self.in_flight() if state == "in_flight" else self.later(now.wall - now.store)
        return list(islice(ids, limit))

    def history(self, id: int, now: Now) -> Traits:
        """The traits, with the failure of a delivery that has timed out, which no record says yet."""
        flight = self.flights.get(id)
        if flight is None or flight.deadline > now.store:
            return self.traits(id)
        return with_failure(flight.traits, Failed(flight.deadline, flight.attempts, TIMEOUT_REASON))

    def waits(self, id: int, now: Now) -> bool:
        """Whether it is ready or delayed, and has not expired; after `advance`."""
        return self.state_of(id, now) in ("ready", "delayed") and not self.has_expired(id)

    def ids_in_flight(self, now: Now) -> list[int]:
        """The ids of what is in flight."""
        return [id for id, flight in self.flights.items() if flight.deadline > now.store]

    def is_in_flight(self, id: int, now: Now) -> bool:
        """Whether it is in flight, and has not timed out."""
        flight = self.flights.get(id)
        return flight is not None and flight.deadline > now.store

    def everything(self) -> list[Sequence[int]]:
        """The ids of all that is here, in parts that are only copied: there may be very many."""
        lanes = [lane.ids() for lane in (self.waiting, *self.lanes.values())]
        return [*lanes, list(self.delayed), list(self.flights)]

    def counts(self, now: Now) -> tuple[int, int, int]:
        """How many are ready, in flight and delayed."""
        self.advance(now)
        in_flight, later = (
            len(self.flights) - self._timed_out + self.exhausted_count(),
            self._later + self._resting,
        )
        expired, early = self.expired_counts()
        return self.total() - in_flight - later - (expired - early), in_flight, later - early

    def total(self) -> int:
        """All messages that are here, wherever they are."""
        count = len(self.waiting) + len(self.delayed) + len(self.flights)
        if self.lanes:
            count += sum(map(len, self.lanes.values()))
        return count

    def live_bytes(self) -> int:
        """What all that is live takes in the log."""
        if self.gone:
            return 0
        messages = max(0, self.bytes) + self.total() * MESSAGE_OVERHEAD_BYTES + self.history_bytes
        return messages + self.dedup.bytes + DECLARATION_BYTES

    def __contains__(self, id: int) -> bool:
        return id in self.flights or id in self.delayed or self._lane_of(id) is not None

    def _lane_of(self, id: int) -> Backlog | None:
        for lane in self.lanes.values():
            if id in lane:
                return lane
        return self.waiting if id in self.waiting else None
