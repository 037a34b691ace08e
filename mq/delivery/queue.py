"""One queue: what waits, what is delayed, what is in flight.

                 deliver                       ack
    ┌─────────┐ ─────────────► ┌───────────┐ ─────────► gone
    │ waiting │                │ in flight │
    └─────────┘   ┌─────────┐ ◄── nack ──┘ │ │
       publish    │ delayed │ ◄── release ─┘ └─ move ──► the dead letters, and back
                  └─────────┘ ── deliver, once due ──►
    A delivery whose deadline has passed is ready too, after a backoff, and can be settled
    until the message is delivered again.

    QueueState      what is true: the messages, the options, the totals
      ready         which message is next (ready.py)
      timers        what comes due, and when (timers.py)
      moment        the time up to which both are right (moment.py)

The methods named after records are the fold: they do what the record says, and only they change what
is true.  Each tells the indexes, which can be made anew from the messages at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import merge
from itertools import count, islice, repeat
from typing import Final, Literal

from msgspec.structs import replace

from . import meta
from .attributes import Attributes, Changes, Failed
from .backlog import Backlog
from .board import NEVER, Board, QueueAlarm
from .dedup import FORGET_AFTER_MS, Remembered, Seen
from .idle import Idle
from .moment import Moment
from .now import Now
from .options import DEAD_SUFFIX, HIDDEN_KEYS, Declaration, Totals, key_of
from .ready import Ready
from .records import (
    BACKING_OFF,
    DECLARATION_BYTES,
    DELAYED,
    IN_FLIGHT,
    KEPT,
    MESSAGE_OVERHEAD_BYTES,
    TIMED_OUT,
    TIMEOUT_REASON,
    WAITING,
)
from .retention import Retention
from .runs import Run
from .subscription import Subscription
from .table import Table
from .timers import Timers
from .traits import LEVELS, PLAIN, Delayed, Flight, Traits, come_back, traits_of, weight, with_failure

__all__ = ["Delayed", "Flight", "QueueState", "State"]

State = Literal["ready", "delayed", "in_flight"]


class QueueState:
    """Changed by the fold, and by questions, which note what came due: both with the store's mutex held."""

    def __init__(self, number: int, name: str, board: Board | None = None) -> None:
        # The messages.  Each is in one of these; the indexes share them.
        self.waiting: Final = Backlog()  # priority 0, never delivered
        self.lanes: Final[dict[int, Backlog]] = {}  # the same, of other priorities; none is empty
        self.delayed: Table[Delayed]  # all that wait and are more than their priority
        self.flights: Table[Flight]  # delivered, and not settled; timed out, perhaps
        self.dedup: Final = Remembered()  # dedup ids, which outlive their messages
        self.bytes = 0  # of all that was published and is not settled
        self.meta_bytes = 0  # what the meta adds to the declaration in the log
        self.history_bytes = 0  # what the failures and origins of the messages add in the log
        self.subscription_bytes = 0  # what the subscriptions take there
        # What is next, and when.
        self.board = board or Board()  # shared by all queues of the store
        self.shared: Final = self.board.shared  # messages that other queues hold as well
        self.moment: Final = Moment()
        self._hold(Table(), QueueAlarm(self.board, number))
        # The definition.
        self.number, self.name = number, name
        self.options = Declaration(name=name)
        self.declared_at = -1  # the position of the declaration in force
        self.gone = False  # deleted
        self.paused = False
        self.idle = Idle(self.options)
        self.totals = Totals(self.options)
        self.subscriptions: Final[dict[str, Subscription]] = {}  # by pattern
        self.retention = Retention.of(self.options)  # if it is what a topic retains
        # What an operation has to look at, so that plain queues have nothing to look at.
        self.bounded = False  # publishers may wait for room
        self.acks_awaited = False  # a publisher may wait for room, or a thread until the queue is empty
        self.publish_needs_plan = False  # there are limits, a time to live, or a delay
        self.expires_alone = False  # of these, there is a time to live
        self.delivery_needs_plan = False  # at most once, or the queue has to know that it is in use
        # For `State.count`.
        self.unchanged = True  # nothing has changed since it was counted, or struck off as empty
        self.counted = (0, 0)  # messages and bytes, as they were then

    def _hold(self, flights: Table[Flight], alarm: QueueAlarm) -> None:
        """Begin anew with the lanes and these *flights*: nothing is delayed."""
        self.delayed, self.flights = Table(), flights
        self.ready = Ready(self.waiting, self.lanes, self.delayed, flights, self.moment)
        self.timers = Timers(self.delayed, flights, self.dedup, self.moment, self.ready, alarm)

    def mark_changed(self) -> None:
        """Something changes: count it again; it may hold a message."""
        self.unchanged = False
        self.board.changed[self.number] = None
        self.board.stocked.add(self.number)

    # ── the fold ───────────────────────────────────────────────────────────────────

    def publish(self, id: int, size: int) -> None:
        self.waiting.append(id)
        self.totals.published += 1
        self.bytes += size
        if self.unchanged:
            self.mark_changed()

    def retain(self, id: int, size: int) -> None:
        """`publish`, of a message that the topic retains whatever its attributes say."""
        self.publish(id, size)
        self.watch_retention()

    def watch_retention(self) -> None:
        """See to it that what is over is dropped, when it is enough."""
        retention, alarm = self.retention, self.timers.alarm
        if retention.is_over(len(self.waiting), self.bytes):
            alarm.at_store(0)
        elif retention.stays_ms is not None and alarm.store == alarm.wall == NEVER:
            alarm.at_store(self.board.seen + retention.stays_ms)

    def publish_run(self, ids: list[int], size: int) -> None:
        """`publish` for many, with *size* bytes together."""
        self.waiting.extend(ids)
        self.totals.published += len(ids)
        self.bytes += size
        if self.unchanged:
            self.mark_changed()

    def publish_with(self, id: int, size: int, attributes: Attributes) -> None:
        """`publish`, with attributes."""
        if attributes.dedup_id is not None:
            self.note_dedup(attributes.dedup_id, id, attributes.dedup_until)
        self.take_in(id, size, attributes.due, traits_of(attributes))

    def note_dedup(self, key: str, id: int, until: int) -> None:
        """What was published with this dedup id has this *id*."""
        self.dedup.forget(self.board.seen)
        self.dedup.note(key, Seen(id, until, id))
        self.timers.alarm.at_store(until + FORGET_AFTER_MS)

    def take_in(self, id: int, size: int, due: int, traits: Traits) -> None:
        """`publish`, with what makes a message more than its body; *due*: wall time."""
        self.totals.published += 1
        self.bytes += size
        if due or not traits.plain:
            self._join(id, traits)
            self._put_delayed(id, Delayed(due, 0, id, traits))
        else:
            self.ready.lane(traits.priority).append(id)
        if self.unchanged:
            self.mark_changed()

    def take_in_run(self, ids: list[int], size: int, traits: Traits) -> None:
        """`take_in` for many that were published just now, in order, with *size* bytes together.

        *traits*: a time to live, and nothing else.
        """
        self.totals.published += len(ids)
        self.bytes += size
        self.delayed.put_all(ids, [Delayed(0, 0, id, traits) for id in ids])
        self.timers.add_expiring_run(ids, traits)
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
                places, near = dict(zip(run.delivered, positions, strict=True)), self.flights.near
                for id, (receipt, deadline) in run.in_flight.items():
                    flight = near[id] = Flight(receipt, deadline, 1, places[id])
                    self.timers.watch(id, flight)
            self.totals.acked += len(run.freed)
            self.bytes -= sum(run.freed)
            if self.shared.extra_bytes:
                self._let_go([id for id in run.delivered if id not in run.in_flight])
        if run.acked:
            self.ack_run(run.acked, run.acked_sizes)
        if self.unchanged:
            self.mark_changed()
        return True

    def declare(self, declaration: Declaration, position: int) -> None:
        self.options, self.declared_at = declaration, position
        self.name, self.paused, self.totals = key_of(declaration), declaration.paused, Totals(declaration)
        self.meta_bytes = meta.live_bytes(declaration.meta)
        self.bounded = declaration.max_length is not None or declaration.max_bytes is not None
        self.acks_awaited = self.bounded
        waits = self.bounded or declaration.delay > 0
        self.publish_needs_plan = waits or declaration.ttl is not None
        self.expires_alone = self.publish_needs_plan and not waits
        self.retention = Retention.of(declaration)
        if self.retention:
            self.watch_retention()
        self.idle = Idle(declaration)
        self.delivery_needs_plan = declaration.delivery == "at_most_once" or self.idle.seconds is not None
        if self.idle.seconds is not None:
            self.board.at_store(self.idle.until, self.number)
        moment = self.moment
        moment.plain_until = 0
        attempts_max = NEVER if declaration.max_attempts is None else declaration.max_attempts
        if (attempts_max, declaration.backoff) != (moment.attempts_max, moment.backoff):
            moment.attempts_max, moment.backoff = attempts_max, declaration.backoff
            self.timers.retry_otherwise()
        if self.unchanged:
            self.mark_changed()

    def follow(self, was: str, now: str) -> None:
        """Another queue, or this one, was called *was*, and is called *now*: name it so."""
        options = self.options
        if self.name[:1] in HIDDEN_KEYS:  # or it has no name
            return
        if was == (options.dead_letter or self.name + DEAD_SUFFIX):
            self.options = replace(options, dead_letter=now)
            self.mark_changed()
        if not self.history_bytes:
            return
        for entries in (self.delayed, self.flights):
            for id, entry in [each for each in entries.items() if each[1].traits.origin == was]:
                traits = replace(entry.traits, origin=now)
                self.history_bytes += weight(traits) - weight(entry.traits)
                entries[id] = replace(entry, traits=traits)  # type: ignore[assignment]
        self.mark_changed()

    def remember(self, key: str, seen: Seen) -> None:
        """A dedup id is still remembered, though the segment with the record that said so is dropped."""
        self.dedup.again(key, seen)
        self.timers.alarm.at_store(seen.until + FORGET_AFTER_MS)
        self.mark_changed()

    def subscribe(self, subscription: Subscription) -> None:
        """This pattern is the queue's from now on, with these headers."""
        self.unsubscribe(subscription.pattern)  # so that the last one comes last
        self.subscriptions[subscription.pattern] = subscription
        self.subscription_bytes += subscription.bytes
        self.mark_changed()

    def unsubscribe(self, pattern: str) -> None:
        if known := self.subscriptions.pop(pattern, None):
            self.subscription_bytes -= known.bytes
            self.mark_changed()

    def renew(self, until: int) -> None:
        """A process has received from it: it is not idle until then."""
        self.idle.until = until

    def deliver(self, id: int, receipt: int, deadline: int, flags: int) -> Flight | None:
        """The new flight; None if the message is not here any more."""
        if flags & TIMED_OUT:
            self.totals.failed += 1
        if id == self.waiting.head:
            position = self.waiting.take(id)
            assert position is not None
            flight = self.flights.near[id] = Flight(receipt, deadline, 1, position)
            self.timers.watch(id, flight)
        else:
            taken = self._take_to_deliver(id)
            if taken is None:
                return None
            flight = Flight(receipt, deadline, taken.attempts + 1, taken.position, taken.traits)
            self._put_flight(id, flight)
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
            self.totals.failed += len(ids)
        # The receipt of each is one more than that of the one before.
        flights = list(map(Flight, count(receipt), repeat(deadline), repeat(1), positions))
        self.flights.put_all(ids, flights)
        if deadline > self.moment.store:
            self.timers.watch_run(ids, deadline)
        else:
            for id, flight in zip(ids, flights, strict=True):
                self.timers.watch(id, flight)
        if self.unchanged:
            self.mark_changed()
        return flights

    def _take_to_deliver(self, id: int) -> Delayed | None:
        if flight := self._take_flight(id):
            failure = Failed(flight.deadline, flight.attempts, TIMEOUT_REASON)
            return Delayed(0, flight.attempts, flight.position, self._failing(come_back(flight), failure))
        return self._take_delayed(id) or self._take_waiting(id)

    def _failing(self, traits: Traits, failure: Failed) -> Traits:
        """The traits with one failure more; counted."""
        more = with_failure(traits, failure)
        self.history_bytes += weight(more) - weight(traits)
        return more

    def ack(self, id: int, size: int) -> None:
        self.totals.acked += 1
        flight = self.flights.near.pop(id, None) or self.flights.pop(id)
        if flight:
            self.bytes -= size
            if flight.deadline <= self.moment.store:
                self.timers.end(id, flight)
            if flight.traits is not PLAIN:
                self._leave(id, flight.traits)
            if self.shared.extra_bytes:
                self.shared.let_go(id, self.number)
        elif self.take(id):
            self.bytes -= size  # it arrived settled; or the record of its delivery was lost
            self.shared.let_go(id, self.number)
        if self.unchanged:
            self.mark_changed()

    def ack_run(self, ids: Sequence[int], sizes: Sequence[int]) -> None:
        """`ack` for many."""
        traits = [each.traits for each in self.flights.get_all(ids) if each]
        if self.timers.some_timed_out or not traits.count(PLAIN) == len(set(ids)) == len(ids):
            for id, size in zip(ids, sizes, strict=True):
                self.ack(id, size)
        else:
            self.ack_plain(ids, sizes)

    def ack_plain(self, ids: Sequence[int], sizes: Sequence[int]) -> None:
        """`ack_run`, for those that `are_plain`."""
        self.totals.acked += len(ids)
        self.bytes -= sum(sizes)
        self.flights.remove_all(ids)
        if self.shared.extra_bytes:
            self._let_go(ids)
        if self.unchanged:
            self.mark_changed()

    def nack(self, id: int, due: int, at: int = 0, reason: str = "", backoff: bool = False) -> None:
        """*backoff*: it decided the due, which is in store time."""
        self.totals.failed += 1
        if flight := self._take_flight(id):
            entry = self._nacked(flight, (id, due, at, reason, backoff))
            self._end_turn(id, entry.traits)
            self._put_delayed(id, entry)
            self.mark_changed()

    def nack_run(self, events: Sequence[tuple[int, int, int, str, bool]]) -> None:
        """`nack` for many."""
        ids = [event[0] for event in events]
        flights = [flight for flight in self.flights.get_all(ids) if flight]
        are_simple = all(flight.traits.group is None and not flight.traits.expires for flight in flights)
        if self.timers.some_timed_out or not are_simple or not len(flights) == len(set(ids)) == len(ids):
            for event in events:
                self.nack(*event)
            return
        self.totals.failed += len(ids)
        entries = list(map(self._nacked, flights, events))
        self.flights.remove_all(ids)
        self.delayed.put_all(ids, entries)
        self.timers.add_delayed_run(ids, entries)
        self.mark_changed()

    def _nacked(self, flight: Flight, event: tuple[int, int, int, str, bool]) -> Delayed:
        """What becomes of a delivery."""
        _, due, at, reason, backoff = event
        traits = self._failing(come_back(flight), Failed(at, flight.attempts, reason))
        wall, store = (0, due) if backoff else (due, 0)
        return Delayed(wall, flight.attempts, flight.position, traits, store)

    def release_run(self, ids: Sequence[int]) -> None:
        """`release` for many."""
        flights = self._plain_flights(ids)
        if flights is None:
            for id in ids:
                self.release(id)
            return
        self.flights.remove_all(ids)
        entries = [Delayed(0, 0, flight.position, come_back(flight)) for flight in flights]
        self.delayed.put_all(ids, entries)
        self.timers.come_back(sorted(ids))

    def extend_run(self, ids: Sequence[int], deadlines: Sequence[int]) -> None:
        """`extend` for many."""
        deadline = deadlines[0]
        flights = self._plain_flights(ids)
        if flights is None or deadline <= self.moment.store or deadlines.count(deadline) < len(ids):
            for id, deadline in zip(ids, deadlines, strict=True):
                self.extend(id, deadline)
            return
        extended = [Flight(flight.receipt, deadline, 1, flight.position) for flight in flights]
        self.flights.put_all(ids, extended)
        self.timers.watch_run(sorted(ids), deadline)

    def _plain_flights(self, ids: Sequence[int]) -> list[Flight] | None:
        """The deliveries of *ids*, if each is a first attempt of a message that is nothing but its body.

        None also if a delivery may have timed out, or one is named twice.
        """
        flights = [flight for flight in self.flights.get_all(ids) if flight]
        are_plain = all(flight.traits is PLAIN and flight.attempts == 1 for flight in flights)
        if self.timers.some_timed_out or not are_plain or not len(flights) == len(set(ids)) == len(ids):
            return None
        return flights

    def release(self, id: int) -> None:
        if flight := self._take_flight(id):
            self._end_turn(id, flight.traits)
            self._put_delayed(id, Delayed(0, flight.attempts - 1, flight.position, come_back(flight)))

    def extend(self, id: int, deadline: int) -> None:
        if flight := self._take_flight(id):
            self._put_flight(id, replace(flight, deadline=deadline))

    def reschedule(self, id: int, due: int) -> None:
        if entry := self._take_delayed(id):
            self._put_delayed(id, replace(entry, due=due, backoff_until=0))
        elif found := self.ready.take_waiting(id):
            self._put_delayed(id, Delayed(due, 0, found[0], LEVELS[found[1]]))

    def take(self, id: int) -> Flight | Delayed | None:
        """Take a message out, wherever it is; the caller says what becomes of its share."""
        entry = self._take_flight(id) or self._take_delayed(id) or self._take_waiting(id)
        if entry:
            if entry.traits is not PLAIN:
                self._leave(id, entry.traits)
            if self.unchanged:
                self.mark_changed()
        return entry

    def _take_waiting(self, id: int) -> Delayed | None:
        found = self.ready.take_waiting(id)
        return Delayed(0, 0, found[0], LEVELS[found[1]]) if found else None

    def drop(self, id: int, size: int) -> None:
        """Expired, cancelled, or one of too many."""
        if self.take(id):
            self.bytes -= size
            self.shared.let_go(id, self.number)
        if self.options.topic and not self.waiting:
            self.bytes = 0  # of a damaged record no size is known

    def arrive(self, arriving: dict[int, Delayed], size: int) -> None:
        """Messages that were not here, of *size* bytes together, wait here now."""
        self.bytes += size
        lanes: dict[int, list[int]] = {}
        for id, entry in arriving.items():
            traits = entry.traits
            if entry.attempts or entry.due or not traits.plain:
                self._join(id, traits)
                self._put_delayed(id, entry)
            else:
                lanes.setdefault(traits.priority, []).append(id)
        for priority, ids in lanes.items():
            ids.sort()
            self.ready.lane(priority).insert(ids, [arriving[id].position for id in ids])
        self.mark_changed()

    def join_in(
        self, ids: Sequence[int], positions: Sequence[int], size: int, due: int, traits: Traits
    ) -> None:  # fmt: skip
        """Messages that were not here, all alike, wait here too: ids ascend, *size* bytes together."""
        self.bytes += size
        if due or not traits.plain:
            for id, position in zip(ids, positions, strict=True):
                self._join(id, traits)
                self._put_delayed(id, Delayed(due, 0, position, traits))
        else:
            self.ready.lane(traits.priority).insert(list(ids), list(positions))
        self.mark_changed()

    def purge(self, cutoff: int, kept: Iterable[tuple[int, int]]) -> None:
        """Drop all that waits, is delayed, or was in flight until *cutoff* at the most.

        *kept*: id and size of each message that stays.  One that is not known here comes with its
        size in a RELOCATE record, further on.
        """
        kept_flights = Table[Flight]()
        for id, flight in self.flights.items():
            if flight.deadline > cutoff:
                kept_flights[id] = flight
        self._empty(kept_flights)
        self.bytes = sum(size for id, size in kept if id in self.flights)
        self.mark_changed()

    def _empty(self, flights: Table[Flight]) -> None:
        """Hold these *flights*, and no other message."""
        contents = [*self.ready.contents(), *self.timers.contents()]
        contents += [*self.delayed.parts(), *self.flights.parts()]
        self.waiting.clear()
        self.lanes.clear()
        self._hold(flights, self.timers.alarm)
        self.history_bytes = sum(weight(each.traits) for each in flights.values())
        self.board.discarded.add(contents)
        if self.shared.extra_bytes:
            self.shared.leave(self.number, flights)

    def delete(self) -> None:
        """The queue goes, with all it holds."""
        self._empty(Table())
        self.gone, self.bytes = True, 0
        self.board.discarded.add(self.dedup.clear())
        self.subscriptions.clear()
        self.mark_changed()

    def relocate(
        self, id: int, position: int, size: int, attempts: int, place: int, receipt: int, when: int,
        attributes: Attributes | None = None, changes: Changes | None = None,
    ) -> None:  # fmt: skip
        """The message's record is at *position* now.

        If the message is not known here, the log begins behind its first record: then this record
        says all there is to know.
        """
        if id in self:
            self.has_moved(id, position)
        else:
            traits = traits_of(attributes, changes, receipt) if attributes and place != KEPT else PLAIN
            if place in (WAITING, KEPT):
                self.arrive({id: Delayed(0, attempts, position, traits)}, size)
                if place == KEPT:
                    self.watch_retention()
            elif place in (DELAYED, BACKING_OFF):
                self.bytes += size
                self._join(id, traits)
                wall, store = (when, 0) if place == DELAYED else (0, when)
                self._put_delayed(id, Delayed(wall, attempts, position, traits, store))
            else:
                self.bytes += size
                self._join(id, traits)
                self._put_flight(id, Flight(receipt, when, attempts, position, traits))
            self.mark_changed()

    def has_moved(self, id: int, position: int) -> None:
        """The record of a message that is here is at *position* now."""
        if flight := self.flights.get(id):
            self.flights[id] = replace(flight, position=position)
        elif delayed := self.delayed.get(id):
            self.delayed[id] = replace(delayed, position=position)
        elif lane := self.lane_of(id):
            lane.move(id, position)

    # ── where a message goes, and what the indexes are told ────────────────────────

    def _join(self, id: int, traits: Traits) -> None:
        """A message that was not here; it is to be put somewhere next."""
        if traits.group is not None:
            self.ready.join(traits.group, id, traits.expires)
        if traits.failures or traits.origin:
            self.history_bytes += weight(traits)

    def _let_go(self, ids: Iterable[int]) -> None:
        """Messages are not here any more, and perhaps elsewhere still."""
        for id in ids:
            self.shared.let_go(id, self.number)

    def _leave(self, id: int, traits: Traits) -> None:
        """A message that was taken from where it was, and is not here any more."""
        if traits.failures or traits.origin:
            self.history_bytes -= weight(traits)
        if traits.group is not None:
            self.ready.leave(traits.group, id)

    def _put_delayed(self, id: int, entry: Delayed) -> None:
        self.delayed[id] = entry
        self.timers.add_delayed(id, entry)

    def _take_delayed(self, id: int) -> Delayed | None:
        entry = self.delayed.pop(id)
        if entry:
            self.timers.remove_delayed(entry)
        return entry

    def _put_flight(self, id: int, flight: Flight) -> None:
        self.flights[id] = flight
        if flight.traits.group is not None:
            self.ready.occupy(flight.traits.group, id)
        self.timers.watch(id, flight)

    def _take_flight(self, id: int) -> Flight | None:
        flight = self.flights.pop(id)
        if flight and flight.deadline <= self.moment.store:
            self.timers.end(id, flight)
        return flight

    def _end_turn(self, id: int, traits: Traits) -> None:
        """A message came back from a delivery: its group may go on."""
        if traits.group is not None:
            self.ready.groups[traits.group].come_back(id)

    def reindex(self) -> None:
        """The messages were put here as they were in a checkpoint: make the indexes."""
        self.history_bytes = sum(weight(each.traits) for each in self.delayed.values())
        self.history_bytes += sum(weight(each.traits) for each in self.flights.values())
        self.timers.reindex()

    # ── questions ──────────────────────────────────────────────────────────────────

    def head(self, now: Now) -> int | None:
        """The id that is delivered next at *now*."""
        timers = self.timers
        if timers.is_due(now):
            timers.advance(now)
        if self.paused:
            return None
        if not self.ready.is_plain():
            return self.ready.head(timers.open_next)
        if timers.is_still() and not self.delivery_needs_plan:
            self.moment.plain_until = timers.next_store
        return self.waiting.head

    def heads(self, now: Now, limit: int, per_group: int | None = 1) -> list[int]:
        """The ids that are delivered next at *now*, at most *limit*, in order, and *per_group* of a group."""
        self._note(now)
        return self.ready.heads(limit, self.timers.open_next, per_group)

    def behind(self, id: int) -> list[int]:
        """The messages that are held together with *id*, which is in flight, and go back if it does."""
        group = self.flights[id].traits.group
        return [] if group is None else self.ready.groups[group].behind(id)

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until a deadline passes or a delay ends; None if there is none."""
        return self.timers.seconds_to_next(now)

    def advance(self, now: Now) -> None:
        """Note what has come due."""
        self.timers.advance(now)

    def traits(self, id: int) -> Traits:
        """Of a message that is here."""
        return self.ready.traits(id)

    def has_expired(self, id: int) -> bool:
        """Whether a message that is not in flight has; after `advance`."""
        return self.timers.has_expired(id)

    def _note(self, now: Now) -> None:
        """Note what has come due, if anything has."""
        if self.timers.is_due(now):
            self.timers.advance(now)

    def is_behind(self, now: Now) -> bool:
        """Note some of what has come due; whether `counts` and `oldest_ready` need more of it.

        They would note all that they need, which takes long for very many: ask this before.
        """
        self._note(now)
        return not self.timers.are_counted() or not self._knows_oldest()

    def _knows_oldest(self) -> bool:
        lowest, oldest = self.ready.batches.lowest, self.ready.oldest_ready()
        return lowest is None or (oldest is not None and oldest <= lowest)

    def oldest_ready(self, now: Now) -> int | None:
        """The oldest id that is ready."""
        self._note(now)
        while not self._knows_oldest():
            self.timers.open_next()
        return self.ready.oldest_ready()

    def due_to_go(self, now: Now, limit: int) -> tuple[list[int], list[int]]:
        """Up to *limit* ids that have expired, and whose attempts are exhausted: see `Timers.due_to_go`."""
        return self.timers.due_to_go(now, limit)

    def first_retained(
        self, now: Now, size_of: Callable[[QueueState, int], int],
        created_of: Callable[[QueueState, int], int | None], most: int | None = None,
    ) -> int:  # fmt: skip
        """Of what a topic retains: the index, in `waiting`, of the oldest message that its limits leave.

        If *most* sizes do not tell, an earlier index, but not before *most*.
        """
        return self.retention.first(
            self.waiting, self.bytes, now.wall, partial(size_of, self), partial(created_of, self), most
        )

    def is_to_go(self, now: Now) -> bool:
        """Whether the queue is to be deleted, since no process receives from it."""
        return self.idle.is_over(now, self.total())

    def reset_alarms(self, now: Now) -> None:
        """What fell due until *now* is done, or in part: say when there is next something to do."""
        self.timers.alarm.done(now)
        self.timers.set_alarms()
        if not self.gone and (when := self.idle.look_at(now)) is not None:
            self.board.at_store(when, self.number)

    def postpone(self, now: Now, until: int) -> None:
        """What fell due until *now* cannot be done: look again at *until*, store time."""
        self.timers.alarm.done(now)
        self.timers.alarm.at_store(until)

    def position(self, id: int) -> int | None:
        """Where the message's record is; None if the message is not here."""
        tried = self.flights.get(id) or self.delayed.get(id)
        if tried:
            return tried.position
        lane = self.lane_of(id)
        return lane.position(id) if lane else None

    def facts(self, id: int) -> tuple[int, int, int, int]:
        """Attempts, place, receipt, and deadline or due: what a relocation has to carry."""
        if flight := self.flights.get(id):
            return flight.attempts, IN_FLIGHT, flight.receipt, flight.deadline
        if delayed := self.delayed.get(id):
            if delayed.backoff_until:
                return delayed.attempts, BACKING_OFF, 0, delayed.backoff_until
            return delayed.attempts, DELAYED, 0, delayed.due
        return 0, KEPT if self.options.topic else WAITING, 0, 0

    def state_of(self, id: int, now: Now) -> State | None:
        """Where the message is; None if it is not here."""
        if flight := self.flights.get(id):
            if flight.deadline > now.store or flight.attempts >= self.moment.attempts_max:
                return "in_flight"  # its last attempt is, until an operation moves it to the dead letters
            return "delayed" if self.moment.returns_at(flight) > now.store else "ready"
        if delayed := self.delayed.get(id):
            return "ready" if delayed.due <= now.wall and delayed.backoff_until <= now.store else "delayed"
        return "ready" if self.lane_of(id) else None

    def changes_at(self, id: int, now: Now) -> int | None:
        """When a message that is not ready will be, in its clock's time."""
        if flight := self.flights.get(id):
            is_in_flight = self.state_of(id, now) == "in_flight"
            return flight.deadline if is_in_flight else self.moment.returns_at(flight)
        delayed = self.delayed.get(id)
        return delayed.backoff_until or delayed.due if delayed else None

    def is_backing_off(self, id: int) -> bool:
        """Whether a message that is delayed is so by a backoff: until then, in store time."""
        delayed = self.delayed.get(id)
        return delayed is None or bool(delayed.backoff_until)

    def are_plain(self, ids: list[int], flights: list[Flight]) -> bool:
        """Whether *flights* are those in force of *ids*, each once, and acking them concerns nothing else.

        *flights* are of messages that are nothing but their bodies.
        """
        if self.acks_awaited or self.timers.some_timed_out or len(set(ids)) < len(ids):
            return False
        return self.flights.get_all(ids) == flights

    def first_receipt(self, id: int) -> int:
        """That of its first delivery here; 0 if it was never delivered."""
        if flight := self.flights.get(id):
            return flight.traits.first or flight.receipt
        delayed = self.delayed.get(id)
        return delayed.traits.first if delayed else 0

    def attempts(self, id: int) -> int:
        """How often the message was delivered, and not released."""
        tried = self.flights.get(id) or self.delayed.get(id)
        return tried.attempts if tried else 0

    def ids(self, state: State, now: Now, limit: int) -> list[int] | None:
        """The first *limit* ids in *state*, in the order in which they will be delivered.

        None: very many have come due, and some of them are noted now; ask again.
        """
        timers, ready = self.timers, self.ready
        timers.advance(now)
        if state == "ready":
            found = ready.listed(limit, timers.open_next)
            return None if ready.is_unsure(found, limit) else found
        if ready.batches.last_count if state == "in_flight" else timers.is_behind():
            return None
        ids = timers.in_flight() if state == "in_flight" else timers.later(now.wall - now.store)
        return list(islice(ids, limit))

    def history(self, id: int, now: Now) -> Traits:
        """The traits, with the failure of a delivery that has timed out, which no record says yet."""
        flight = self.flights.get(id)
        if flight is None or flight.deadline > now.store:
            return self.ready.traits(id)
        return with_failure(flight.traits, Failed(flight.deadline, flight.attempts, TIMEOUT_REASON))

    def is_ready(self, id: int, time_ms: int) -> bool:
        """Whether a message that is in no group, and not in flight, can be delivered at *time_ms*.

        Of that it asks nothing but the message: no index is looked at, nor changed.
        """
        entry = self.delayed.get(id)
        if entry is None:
            return self.lane_of(id) is not None
        expires = entry.traits.expires
        return (
            entry.traits.group is None
            and entry.due <= time_ms
            and entry.backoff_until <= time_ms
            and not 0 < expires <= time_ms
            and entry.attempts < self.moment.attempts_max
        )

    def waits(self, id: int, now: Now) -> bool:
        """Whether it is ready or delayed, and has not expired; after `advance`."""
        return self.state_of(id, now) in ("ready", "delayed") and not self.timers.has_expired(id)

    def ids_in_flight(self, now: Now) -> list[int]:
        """The ids of what is in flight."""
        return [id for id, flight in self.flights.items() if flight.deadline > now.store]

    def is_in_flight(self, id: int, now: Now) -> bool:
        """Whether it is in flight, and has not timed out."""
        flight = self.flights.get(id)
        return flight is not None and flight.deadline > now.store

    def everything(self) -> Iterator[int]:
        """The ids of all that is here now, the oldest first: only copied now, for there may be very many."""
        lanes = [lane.ids() for lane in (self.waiting, *self.lanes.values())]
        return merge(*lanes, *self.delayed.in_order(), *self.flights.in_order())

    def tried_below(self, limit: int) -> list[list[int]]:
        """Ids of what is delayed or in flight: all those whose records may stand before *limit*, copied."""
        return [list(part) for tried in (self.delayed, self.flights) for part in tried.below(limit)]

    def counts(self, now: Now) -> tuple[int, int, int]:
        """How many are ready, in flight and delayed."""
        timers = self.timers
        self._note(now)
        while not timers.are_counted():
            timers.open_any()
        in_flight, later = timers.counts()
        expired, expired_early = timers.expired()
        ready = self.total() - in_flight - later - (expired - expired_early)
        return ready, in_flight, later - expired_early

    def is_empty(self, now: Now) -> bool:
        """Whether there is nothing but what has expired."""
        if self.total() == 0:
            return True
        self.timers.advance(now)
        return self.total() == self.timers.expired()[0]

    def total(self) -> int:
        """How many messages are here, in whichever state."""
        count = len(self.waiting) + len(self.delayed) + len(self.flights)
        if self.lanes:
            count += sum(map(len, self.lanes.values()))
        return count

    def live_bytes(self) -> int:
        """How much of the log is live, in bytes."""
        if self.gone:
            return 0
        messages = max(0, self.bytes) + self.total() * MESSAGE_OVERHEAD_BYTES + self.history_bytes
        kept = self.dedup.bytes + self.meta_bytes + self.subscription_bytes
        return messages + kept + DECLARATION_BYTES

    def __contains__(self, id: int) -> bool:
        return id in self.flights or id in self.delayed or self.lane_of(id) is not None

    def holds_none(self, ids: Sequence[int]) -> bool:
        """Whether none of *ids*, which ascend, is here, nor any between them."""
        first, behind = ids[0], ids[-1] + 1
        lanes = (self.waiting, *self.lanes.values())
        tried = (self.delayed, self.flights)
        return not any(lane.has_within(first, behind) for lane in lanes) and all(
            each.is_disjoint(ids) for each in tried
        )

    def lane_of(self, id: int) -> Backlog | None:
        """Where it is, if it only waits."""
        for lane in self.lanes.values():
            if id in lane:
                return lane
        return self.waiting if id in self.waiting else None
