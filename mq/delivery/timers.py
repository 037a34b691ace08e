"""What comes due in one queue, and when: an index over its messages, and the alarms that it sets.

    deadlines  (store time)   a delivery times out          ─► it is tried again after a backoff,
                                                               or its attempts are exhausted
    returns    (store time)   a backoff is over        ┐
    dues       (wall time)    a delay is over          ┴───► ready.py
    expiries   (wall time)    a time to live is over        ─► it is dropped, or goes to the dead letters

Entries may be out of date; they are checked against the messages when they come up, and swept when
there are too many.  Whatever is wrong with the index (an interruption, a wall clock that was set back),
`reindex` makes it anew from the messages.

What comes due for a receiver is noted when one asks (`advance`).  What is due without a receiver, to
drop messages or to move them, is work for whichever process comes by: an alarm on the board says when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import filterfalse
from typing import Final

from .agenda import Agenda
from .board import NEVER, QueueAlarm
from .dedup import Remembered
from .expiries import Expiries
from .heaps import ascending
from .moment import Moment
from .now import Now
from .ready import STALE_MAX, Ready
from .traits import PLAIN, Delayed, Flight

STALE_SHARE: Final = 4  # entries that are looked at for each that is wanted


class Timers:
    """The dicts are the queue's own, which changes them."""

    __slots__ = (
        "_added", "_delayed", "_flights", "_is_stale", "_moment", "_next_wall", "_ready", "_remembered",
        "_watched", "_work_at_deadlines", "alarm", "backing_off", "broken", "deadlines", "dues", "early",
        "exhausted", "exhausted_count", "expiries", "next_store", "overdue", "returns", "timed_out",
    )  # fmt: skip

    def __init__(
        self, delayed: dict[int, Delayed], flights: dict[int, Flight], remembered: Remembered,
        moment: Moment, ready: Ready, alarm: QueueAlarm,
    ) -> None:  # fmt: skip
        self._delayed, self._flights, self._remembered = delayed, flights, remembered
        self._moment, self._ready, self.alarm = moment, ready, alarm
        self._added = 0  # to `_delayed`, so far
        self._watched = 0  # deliveries, so far
        self.reindex()

    def reindex(self) -> None:
        """Make this and `Ready` anew."""
        self._begin()
        self._next_wall = 0
        moment, ready = self._moment, self._ready
        ready.clear()
        self.expiries = Expiries()  # of messages that are not in flight; when each expires, wall time
        self.returns: list[tuple[int, int]] = []  # a heap: when a backoff is over, store time; the id
        self.overdue: list[int] = []  # have expired, and go next; most are in the agenda still
        self.exhausted: list[int] = []  # deliveries that have timed out, and were the last attempts
        self.exhausted_count = 0  # of them; in the list some may be out of date
        self.timed_out = 0  # deliveries that have, exhausted or not
        self.backing_off = 0  # of those, how many are to be tried again, and not yet
        self.early = 0  # delayed messages whose delay, or backoff, is not over
        # Some deadline is work for whichever process comes by: of a message that expires, or of one that is
        # held together with others of its group.
        self._work_at_deadlines = False
        self.broken: dict[str, None] = {}  # groups of which several are in flight, and one has timed out
        dues, expiries, deadlines = [], [], []
        for id, entry in self._delayed.items():
            traits, early = entry.traits, moment.is_early(entry)
            if traits.expires:
                self.expiries.count(traits.expires, early=early)
                expiries.append((traits.expires, id))
            if early:
                self.early += 1
                if entry.backoff_until:
                    self.returns.append((entry.backoff_until, id))
                else:
                    dues.append((entry.due, id))
            elif traits.group is None:
                ready.push(id, traits)
            if traits.group is not None:
                ready.join(traits.group, id, traits.expires)
        heapify(self.returns)
        self.dues = Agenda(dues)  # when a delay is over, wall time; the id
        self.expiries.restart(expiries)
        for id, flight in self._flights.items():
            if flight.traits.group is not None:
                ready.join(flight.traits.group, id, flight.traits.expires).occupy(id)
        for id, flight in self._flights.items():  # by now it is known which are held together
            if flight.deadline <= moment.store:
                self._time_out(id, flight)
                continue
            deadlines.append((flight.deadline, id))
            if flight.traits.expires or ready.run_of(flight):
                self._work_at_deadlines = True
        self.deadlines = Agenda(deadlines)  # when a delivery times out, store time; the id
        ready.promote_all()
        self._set_bounds()
        self._is_stale = False
        self.alarm.forget()
        self.set_alarms()

    def _begin(self) -> None:
        """Interrupted from here on, the next look begins anew."""
        self._is_stale = True  # the index is not what the messages say
        self.next_store = 0  # store time, ms: nothing comes due before that
        self._moment.plain_until = 0

    # ── what changes ───────────────────────────────────────────────────────────────

    def add_delayed(self, id: int, entry: Delayed) -> None:
        """*id* is delayed now; of its group it is a member already."""
        self._moment.plain_until = 0
        traits, early = entry.traits, self._moment.is_early(entry)
        if traits.expires:
            self._watch_expiry(id, traits.expires)
            self.expiries.count(traits.expires, early=early)
        self._ready.came_back(id)
        if early:
            self.early += 1
            if entry.backoff_until:
                heappush(self.returns, (entry.backoff_until, id))
                self.next_store = min(self.next_store, entry.backoff_until)
            else:
                self.dues.add(entry.due, id)
                self._next_wall = min(self._next_wall, entry.due)
        elif traits.group is None:
            self._ready.push(id, traits)
        if traits.group is not None:
            self._ready.promote(traits.group)
        self._added += 1
        if not self._added % STALE_MAX:
            self._sweep()

    def remove_delayed(self, entry: Delayed) -> None:
        """It is not delayed any more."""
        expires, early = entry.traits.expires, self._moment.is_early(entry)
        if expires:
            self.expiries.uncount(expires, early=early)
        if early:
            self.early -= 1

    def watch(self, id: int, flight: Flight) -> None:
        """Note when *flight* times out."""
        deadline = flight.deadline
        if deadline <= self._moment.store:
            self._time_out(id, flight)
            return
        # Entries are not removed on ack: an ack is far more common than a timeout, so
        # the stale ones are paid for here, in one sweep for as many new ones.
        self._watched += 1
        self.deadlines.add(deadline, id)
        if deadline < self.next_store:
            self._come_due(deadline)
        if flight.traits is not PLAIN and (when := self._work_at(flight)):
            self._work_at_deadlines = True
            self.alarm.at_store(when)
        elif flight.attempts >= self._moment.attempts_max:
            self.alarm.at_store(deadline)
        if not self._watched % STALE_MAX:
            self._sweep_deadlines()

    def _work_at(self, flight: Flight) -> int:
        """When it is work for whichever process comes by that *flight* times out; 0: never."""
        if run := self._ready.run_of(flight):
            # Perhaps at the deadline of the other one of two: when that began, it was alone.
            return min(flight.deadline, *(self._flights[id].deadline for id in (run[0], run[-1])))
        return flight.deadline if flight.traits.expires else 0

    def watch_run(self, ids: Sequence[int], deadline: int) -> None:
        """`watch` for first attempts, of messages that do not expire; their *deadline* is to come."""
        if len(self._flights) == len(ids):  # all others are settled
            self.deadlines = Agenda()
        self.deadlines.add_run(deadline, ids)
        if deadline < self.next_store:
            self._come_due(deadline)
        if self._moment.attempts_max <= 1:
            self.alarm.at_store(deadline)
        self._sweep_deadlines()

    def end(self, flight: Flight) -> None:
        """A delivery that had timed out is another one now, or none."""
        self.timed_out -= 1
        moment = self._moment
        if flight.attempts >= moment.attempts_max:
            self.exhausted_count -= 1
            return
        early = moment.returns_at(flight) > moment.store
        if flight.traits.expires:
            self.expiries.uncount(flight.traits.expires, early=early)
        if early:
            self.backing_off -= 1

    def _come_due(self, store_ms: int) -> None:
        """Something comes due then, sooner than all else."""
        self.next_store = store_ms
        if store_ms < self._moment.plain_until:
            self._moment.plain_until = store_ms

    def _time_out(self, id: int, flight: Flight) -> None:
        """The delivery has timed out."""
        self.timed_out += 1
        moment = self._moment
        if flight.traits.group is not None and self._ready.run_of(flight):
            self.broken[flight.traits.group] = None
            self.alarm.at_store(0)
        if flight.attempts >= moment.attempts_max:
            self.exhausted_count += 1
            self.exhausted.append(id)
            # It may have timed out as it began, so no alarm was set for its deadline before.
            self.alarm.at_store(flight.deadline)
            return
        when = moment.returns_at(flight)
        early = when > moment.store
        if flight.traits.expires:
            self._watch_expiry(id, flight.traits.expires)
            self.expiries.count(flight.traits.expires, early=early)
            if flight.traits.group is not None:
                self._ready.note_turn(flight.traits.expires, id)
        self._ready.came_back(id)
        if early:
            heappush(self.returns, (when, id))
            self.backing_off += 1
            if when < self.next_store:
                self._come_due(when)
        else:
            self._ready.push(id, flight.traits)

    def _watch_expiry(self, id: int, when: int) -> None:
        self._moment.plain_until = 0
        self.expiries.agenda.add(when, id)
        self._next_wall = min(self._next_wall, when)
        self.alarm.at_wall(when)

    def _sweep(self) -> None:
        """Make the index anew if most of it is out of date."""
        most = STALE_SHARE * (len(self._delayed) + len(self._flights) + STALE_MAX)
        later = len(self.dues) + len(self.returns) + len(self.expiries.agenda)
        if self._ready.size() + later + len(self.overdue) + len(self.exhausted) > most:
            self.reindex()

    def _sweep_deadlines(self) -> None:
        """Have only those that are in force, if most are not."""
        if len(self.deadlines) <= 2 * len(self._flights) + STALE_MAX:
            return
        now_ms = self._moment.store
        self.deadlines = Agenda(
            (each.deadline, id) for id, each in self._flights.items() if each.deadline > now_ms
        )
        self._sweep()

    # ── time ───────────────────────────────────────────────────────────────────────

    def is_due(self, now: Now) -> bool:
        """Whether `advance` has something to note."""
        return now.store >= self.next_store or now.wall >= self._next_wall or now.wall < self._moment.wall

    def is_still(self) -> bool:
        """Whether nothing comes due by wall time."""
        return self._next_wall == NEVER

    def advance(self, now: Now) -> None:
        """Note what has come due."""
        moment = self._moment
        if now.wall < moment.wall:
            self._begin()  # first: interrupted here, the next look begins anew too
            moment.wall = now.wall
        if self._is_stale:
            self.reindex()
        self._begin()
        expiry = self.expiries.agenda.first()
        if expiry and moment.wall < expiry[0] <= now.wall:
            self.alarm.board.next = 0  # sooner than it knew, if the wall clock has jumped
        before = moment.store
        moment.store, moment.wall = max(before, now.store), now.wall
        self._pass_deadlines(moment.store)
        self._pass_returns(before, moment.store)
        self._pass_dues(now.wall)
        self.overdue += self._ready.pass_turns(now.wall)
        self._set_bounds()
        self._is_stale = False

    def _pass_deadlines(self, now_ms: int) -> None:
        last = None
        while (pair := self.deadlines.first()) and pair[0] <= now_ms:
            self.deadlines.pop()
            if pair != last and self._is_deadline(*pair):
                self._time_out(pair[1], self._flights[pair[1]])
            last = pair

    def _pass_returns(self, before_ms: int, now_ms: int) -> None:
        last = None
        while self.returns and self.returns[0][0] <= now_ms:
            pair = heappop(self.returns)
            if pair != last and self._is_return(*pair):
                if flight := self._flights.get(pair[1]):
                    # One that has timed out just now was not backing off: the entry is of an earlier flight.
                    if flight.deadline > before_ms:
                        continue
                    self.backing_off -= 1
                    if flight.traits.expires:
                        self.expiries.not_early(flight.traits.expires)
                    self._ready.push(pair[1], flight.traits)
                else:
                    self._end_delay(pair[1])
            last = pair

    def _pass_dues(self, now_ms: int) -> None:
        moment, ended = 0, set[int]()
        while (pair := self.dues.first()) and pair[0] <= now_ms:
            self.dues.pop()
            due, id = pair
            if due != moment:
                moment, ended = due, set()
            # What was put off to the same moment twice is in there twice, and others of that moment between.
            if id not in ended and self._is_due(due, id):
                ended.add(id)
                self._end_delay(id)

    def _end_delay(self, id: int) -> None:
        """The delay of a message, or its backoff, is over."""
        self.early -= 1
        traits = self._delayed[id].traits
        if traits.expires:
            self.expiries.not_early(traits.expires)
        if traits.group is None:
            self._ready.push(id, traits)
        else:
            self._ready.promote(traits.group)

    def _set_bounds(self) -> None:
        deadline, due, expiry = self.deadlines.first(), self.dues.first(), self.expiries.agenda.first()
        self.next_store = deadline[0] if deadline else NEVER
        if self.returns:
            self.next_store = min(self.next_store, self.returns[0][0])
        self._next_wall = due[0] if due else NEVER  # wall time, ms: nothing comes due before that
        if expiry:  # what has expired already does not say when the next one does
            self._next_wall = min(self._next_wall, max(expiry[0], self._moment.wall + 1))

    # ── questions; after `advance` ─────────────────────────────────────────────────

    def in_flight(self) -> Iterator[int]:
        """The ids of what is in flight, the next to time out first.

        An exhausted delivery is so until it is dead, though it has timed out.
        """
        flights = self._flights
        exhausted = [(flights[id].deadline, id) for id in set(self.exhausted) if self.is_exhausted(id)]
        pending = filter(lambda pair: self._is_deadline(*pair), self.deadlines.ascending())
        return _unique(id for _, id in merge(sorted(exhausted), pending))

    def later(self, ahead_ms: int) -> Iterator[int]:
        """The ids of what is early, the next to be ready first.

        *ahead_ms*: wall time less store time.
        """
        dues = filter(lambda pair: self._is_due(*pair), self.dues.ascending())
        returns = filter(lambda pair: self._is_return(*pair), ascending(self.returns))
        wall = ((when + ahead_ms, id) for when, id in returns)
        return filterfalse(self.has_expired, _unique(id for _, id in merge(dues, wall)))

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until a deadline passes or a delay ends; None if there is none.  No `advance` before."""
        if self._is_stale:
            self.reindex()
        deadline = self._first_deadline()
        while self.returns and not self._is_return(*self.returns[0]):
            heappop(self.returns)
        while (due := self.dues.first()) and not self._is_due(*due):
            self.dues.pop()
        nexts = [] if deadline is None else [deadline - now.store]
        if self.returns:
            nexts.append(self.returns[0][0] - now.store)
        if due:
            nexts.append(due[0] - now.wall)
        return max(0, min(nexts)) / 1000 if nexts else None

    def has_expired(self, id: int) -> bool:
        """Whether a message that is not in flight has.

        One whose attempts are exhausted has failed: it dies, and does not expire.
        """
        if entry := self._delayed.get(id):
            return self._moment.has_expired(entry)
        flight = self._flights.get(id)
        return flight is not None and self._moment.has_timed_out(flight) and self._moment.has_expired(flight)

    def is_exhausted(self, id: int) -> bool:
        """Whether its last attempt has timed out."""
        return self._moment.is_exhausted(self._flights.get(id))

    def expired(self) -> tuple[int, int]:
        """How many have expired, and no process came by yet; and how many of those are early."""
        bound = self.next_store
        self._begin()
        found = self.expiries.passed(self._moment.wall)
        self._is_stale, self.next_store = False, bound
        return found

    def _is_deadline(self, deadline: int, id: int) -> bool:
        flight = self._flights.get(id)
        return flight is not None and flight.deadline == deadline

    def _is_return(self, when: int, id: int) -> bool:
        if entry := self._delayed.get(id):
            return entry.backoff_until == when
        flight, moment = self._flights.get(id), self._moment
        return flight is not None and moment.has_timed_out(flight) and moment.returns_at(flight) == when

    def _is_due(self, due: int, id: int) -> bool:
        entry = self._delayed.get(id)
        return entry is not None and entry.due == due

    # ── work for whichever process comes by ────────────────────────────────────────

    def due_to_go(self, now: Now, limit: int) -> tuple[list[int], list[int]]:
        """Up to *limit* ids that have expired, and whose attempts are exhausted.

        Both may be empty though more is due: stale entries count towards the limit, too.
        """
        self.advance(now)
        self.overdue = [id for id in self.overdue if self.has_expired(id)]
        self._gather_expired(limit)
        while self.exhausted and not self.is_exhausted(self.exhausted[-1]):
            self.exhausted.pop()
        expired = dict.fromkeys(self.overdue[-limit:])
        rest = self.exhausted[len(expired) - limit :] if len(expired) < limit else []
        exhausted = dict.fromkeys(id for id in rest if self.is_exhausted(id))
        return list(expired), list(exhausted)

    def broken_runs(self, limit: int) -> list[int]:
        """Up to *limit* deliveries that have timed out, with others behind that go back; after `advance`."""
        found: list[int] = []
        whole: list[str] = []  # by now
        for name in self.broken:
            if len(found) == limit:
                break
            run = self._ready.groups[name].in_flight if name in self._ready.groups else []
            late = next((id for id in run[:-1] if self._flights[id].deadline <= self._moment.store), None)
            if late is None:
                whole.append(name)
            else:
                found.append(late)
        for name in whole:
            del self.broken[name]
        return found

    def _gather_expired(self, limit: int) -> None:
        """Have up to *limit* of those that have expired in `overdue`; a few times as many are looked at."""
        agenda = self.expiries.agenda
        for _ in range(STALE_SHARE * limit):
            expiry = agenda.first()
            if len(self.overdue) >= limit or not expiry or expiry[0] > self._moment.wall:
                return
            self.overdue.append(expiry[1])  # first: interrupted here, it is looked at twice
            agenda.pop()
            if not self.has_expired(expiry[1]):
                self.overdue.pop()

    def set_alarms(self) -> None:
        """Tell the board when there is next something to do, if it does not know."""
        expiry = self.expiries.agenda.first()
        if self.overdue:
            self.alarm.at_wall(0)
        elif expiry:
            self.alarm.at_wall(expiry[0])
        if self.exhausted or self.broken:
            self.alarm.at_store(0)
        elif self._work_at_deadlines or self._moment.attempts_max != NEVER:
            deadline = self._first_deadline()
            if deadline is not None:
                self.alarm.at_store(deadline)
        if (when := self._remembered.look_at) is not None:
            self.alarm.at_store(when)

    def _first_deadline(self) -> int | None:
        """When the next delivery that is still in force times out; what is settled before it is dropped."""
        while (deadline := self.deadlines.first()) and not self._is_deadline(*deadline):
            self.deadlines.pop()
        return deadline[0] if deadline else None


def _unique(ids: Iterable[int]) -> Iterator[int]:
    """*ids*, each the first time."""
    seen = set[int]()
    for id in ids:
        if id not in seen:
            seen.add(id)
            yield id
