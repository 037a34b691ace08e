"""What comes due in one queue, and when: an index over its messages, and the alarms that it sets.

    deadlines  (store time)   a visibility timeout passed   ─► it is tried again after a backoff,
                                                               or its attempts are exhausted
    returns    (store time)   a backoff is over        ┐
    dues       (wall time)    a delay is over          ┴───► ready.py
    expiries   (wall time)    a time to live is over        ─► it is dropped, or goes to the dead letters

Entries may be out of date; they are checked against the messages when they come up, and swept when
there are too many.  Whatever is wrong with the index (an interruption, a wall clock that was set back),
`reindex` makes it anew from the messages.

Any number of entries may come due at one moment: they are cut into batches then, which are opened one
by one (batches.py).

What comes due for a receiver is noted when one asks (`advance`).  What is due without a receiver, to
drop messages or to move them, is work for whichever process comes by: an alarm on the board says when.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from heapq import merge
from itertools import filterfalse
from typing import Any, Final

from .agenda import Agenda, Agendas
from .batches import BATCH_IDS, Batch
from .board import NEVER, QueueAlarm
from .deadlines import AT_ONCE, FEW, FIRST, Deadlines, first_valid, kind_of
from .dedup import Remembered
from .expiries import Expiries
from .moment import Moment
from .now import Now
from .ready import STALE_MAX, Ready
from .table import Table
from .tally import Tally
from .traits import PLAIN, Delayed, Flight, Traits

STALE_SHARE: Final = 4  # entries that are looked at for each that is wanted

# Kinds of entries, of messages that are delayed or back off: the priority, if they are nothing more; and
EXPIRING: Final = -1  # those that expire: each is looked at as it comes due
GROUPED: Final = -2  # those in a group; less the priority
IN_GROUP: Final = (0, 0, 0)  # of a batch: those in a group


class Timers:
    """The tables are the queue's own, which changes them."""

    __slots__ = (
        "_added", "_by_store", "_by_wall", "_delayed", "_flights", "_is_stale", "_late", "_moment",
        "_next_wall", "_ready", "_remembered", "_urgent", "_watched", "_work_at_deadlines",
        "alarm", "broken", "deadlines", "dues", "exhausted", "exhausted_count", "expiries", "next_store",
        "overdue", "returns",
    )  # fmt: skip

    def __init__(
        self, delayed: Table[Delayed], flights: Table[Flight], remembered: Remembered,
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
        self.dues = Agendas()  # when a delay is over, wall time; the id
        self.returns = Agendas()  # when a backoff is over, store time; the id
        self.overdue: list[int] = []  # have expired, and go next; most are in the agenda still
        self.exhausted: list[int] = []  # deliveries that have timed out, and were the last attempts
        self.exhausted_count = 0  # of them; in the list some may be out of date
        # Deliveries that have timed out, but for those in batches that are not open: when each is tried
        # again, or a time that is over if it may be by now, store time; NEVER if it is exhausted.
        self._late: Table[int] = Table()
        self._urgent = 0  # batches that are to be opened though no receiver asks
        self._by_wall = Tally(each.due for each in self._delayed.values() if each.due)
        self._by_store = Tally(each.backoff_until for each in self._delayed.values() if each.backoff_until)
        # Some deadline is work for whichever process comes by: of a message that expires, or of one that is
        # held together with others of its group.
        self._work_at_deadlines = False
        self.broken: dict[str, None] = {}  # groups of which several are in flight, and one has timed out
        expiries = []
        back: dict[int, list[int]] = {}
        early_dues: dict[int, list[tuple[int, int]]] = {}
        early_returns: dict[int, list[tuple[int, int]]] = {}
        for id, entry in self._delayed.items():
            traits, early = entry.traits, moment.is_early(entry)
            if traits.expires:
                self.expiries.count(traits.expires, early=early)
                expiries.append((traits.expires, id))
            if early:
                if entry.backoff_until:
                    early_returns.setdefault(_kind(traits), []).append((entry.backoff_until, id))
                else:
                    early_dues.setdefault(_kind(traits), []).append((entry.due, id))
            elif traits.group is None:
                if traits.expires:
                    ready.push(id, traits)
                else:
                    back.setdefault(traits.priority, []).append(id)
            if traits.group is not None:
                ready.join(traits.group, id, traits.expires)
        for level, ids in back.items():
            ready.push_run(sorted(ids), level)
        for kind, pairs in early_dues.items():
            self.dues[kind] = Agenda(pairs)
        for kind, pairs in early_returns.items():
            self.returns[kind] = Agenda(pairs)
        self.expiries.restart(expiries)
        for id, flight in self._flights.items():
            traits = flight.traits
            if traits is not PLAIN:
                if traits.group is not None:
                    ready.join(traits.group, id, traits.expires).occupy(id)
                self._work_at_deadlines = self._work_at_deadlines or traits.expires > 0
        for name in ready.groups:  # by now it is known which are held together
            self._work_at_deadlines = self._work_at_deadlines or len(ready.groups[name].in_flight) > 1
        self.deadlines = Deadlines(self._flights)
        self._pass_deadlines(moment.store)
        ready.promote_all()
        self._set_bounds()
        self._is_stale = False
        self.alarm.forget()
        self.set_alarms()

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; the index is not used any more."""
        tallies = [*self.expiries.contents(), *self._by_wall.contents(), *self._by_store.contents()]
        agendas = [
            each for agenda in (*self.dues.values(), *self.returns.values()) for each in agenda.contents()
        ]
        return [*tallies, *agendas, *self._late.parts(), self.overdue, self.exhausted, self.broken]

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
        if entry.backoff_until:
            self._by_store.add(entry.backoff_until)
        elif entry.due:
            self._by_wall.add(entry.due)
        if early:
            if entry.backoff_until:
                self.returns[_kind(traits)].add(entry.backoff_until, id)
                self.next_store = min(self.next_store, entry.backoff_until)
            else:
                self.dues[_kind(traits)].add(entry.due, id)
                self._next_wall = min(self._next_wall, entry.due)
        elif traits.group is None:
            self._ready.push(id, traits)
        if traits.group is not None:
            self._ready.promote(traits.group)
        self._added += 1
        if not self._added % STALE_MAX:
            self._sweep()

    def add_delayed_run(self, ids: Sequence[int], entries: Sequence[Delayed]) -> None:
        """`add_delayed` for many, which neither expire nor are in a group."""
        ready: dict[int, list[int]] = {}
        later: dict[tuple[bool, int], list[tuple[int, int]]] = {}  # by whether they back off, and priority
        is_early = self._moment.is_early
        for id, entry in zip(ids, entries, strict=True):
            level = entry.traits.priority
            if is_early(entry):
                backs_off = entry.backoff_until > 0
                later.setdefault((backs_off, level), []).append((entry.backoff_until or entry.due, id))
            else:
                ready.setdefault(level, []).append(id)
        self._by_store.add_all([entry.backoff_until for entry in entries if entry.backoff_until])
        self._by_wall.add_all([entry.due for entry in entries if entry.due and not entry.backoff_until])
        self._moment.plain_until = 0
        self._ready.many_came_back(len(ids))
        for level, some in ready.items():
            self._ready.push_run(sorted(some), level)
        for (backs_off, level), pairs in later.items():
            pairs.sort()
            if backs_off:
                self.returns[level].add_all(pairs)
                self.next_store = min(self.next_store, pairs[0][0])
            else:
                self.dues[level].add_all(pairs)
                self._next_wall = min(self._next_wall, pairs[0][0])
        self._sweep()

    def add_expiring_run(self, ids: Sequence[int], traits: Traits) -> None:
        """`add_delayed` for many, which ascend, of the same time to live, and which are nothing else."""
        when = traits.expires
        self.expiries.agenda.add_run(when, ids)
        self._next_wall = min(self._next_wall, when)
        self.alarm.at_wall(when)
        self.expiries.count(when, early=False, many=len(ids))
        self._ready.push_expiring(ids, traits)
        self._added += len(ids)
        if self._added % STALE_MAX < len(ids):
            self._sweep()

    def come_back(self, ids: Sequence[int]) -> None:
        """*ids*, which ascend, are ready again; they are nothing but their bodies."""
        self._ready.many_came_back(len(ids))
        self._ready.push_run(ids, 0)
        self._sweep()

    def remove_delayed(self, entry: Delayed) -> None:
        """It is not delayed any more."""
        if entry.backoff_until:
            self._by_store.remove(entry.backoff_until)
        elif entry.due:
            self._by_wall.remove(entry.due)
        if entry.traits.expires:
            self.expiries.uncount(entry.traits.expires, early=self._moment.is_early(entry))

    def watch(self, id: int, flight: Flight) -> None:
        """Note when *flight* times out."""
        deadline = flight.deadline
        if deadline <= self._moment.store:
            self._time_out(id, flight)
            return
        self._watched += 1
        attempts, traits = flight.attempts, flight.traits
        if traits is PLAIN and attempts == 1:
            self.deadlines.plain.add(deadline, id)
        else:
            self.deadlines[kind_of(flight)].add(deadline, id)
        if deadline < self.next_store:
            self._come_due(deadline)
        if traits is not PLAIN and (when := self._work_at(flight)):
            self._work_at_deadlines = True
            self.alarm.at_store(when)
        elif attempts >= self._moment.attempts_max:
            self.alarm.at_store(deadline)
        if not self._watched % STALE_MAX:
            self._sweep_deadlines(STALE_MAX)

    def _work_at(self, flight: Flight) -> int:
        """When it is work for whichever process comes by that *flight* times out; 0: never."""
        if run := self._ready.run_of(flight):
            # Perhaps at the deadline of the other one of two: when that began, it was alone.
            return min(flight.deadline, *(self._flights[id].deadline for id in (run[0], run[-1])))
        return flight.deadline if flight.traits.expires else 0

    def watch_run(self, ids: Sequence[int], deadline: int) -> None:
        """`watch` for first attempts, of messages that do not expire; their *deadline* is to come."""
        if len(self._flights) == len(ids):  # all others are settled
            self.deadlines.forget()
        self.deadlines.plain.add_run(deadline, ids)
        if deadline < self.next_store:
            self._come_due(deadline)
        if self._moment.attempts_max <= 1:
            self.alarm.at_store(deadline)
        self._sweep_deadlines(len(ids))

    def retry_otherwise(self) -> None:
        """Attempts and backoff are others now: what has timed out is to be indexed anew."""
        if self.some_timed_out:
            self.reindex()
        else:
            self.alarm.forget()
            self.set_alarms()

    @property
    def some_timed_out(self) -> bool:
        """Whether a delivery may have."""
        return bool(self._late) or len(self._ready.batches) > 0

    def end(self, id: int, flight: Flight) -> None:
        """A delivery that had timed out is another one now, or none."""
        when = self._late.pop(id)
        if when is None:  # it is in a batch that is not open, and is passed over there
            return
        if when == NEVER:
            self.exhausted_count -= 1
            return
        self._by_store.remove(when)
        if flight.traits.expires:
            self.expiries.uncount(flight.traits.expires, early=when > self._moment.store)

    def _come_due(self, store_ms: int) -> None:
        """Something comes due then, sooner than all else."""
        self.next_store = store_ms
        if store_ms < self._moment.plain_until:
            self._moment.plain_until = store_ms

    def _time_out(self, id: int, flight: Flight) -> None:
        """The delivery has timed out."""
        moment = self._moment
        if flight.traits.group is not None and self._ready.run_of(flight):
            self.broken[flight.traits.group] = None
            self.alarm.at_store(0)
        if flight.attempts >= moment.attempts_max:
            self._late[id] = NEVER
            self.exhausted_count += 1
            self.exhausted.append(id)
            # It may have timed out as it began, so no alarm was set for its deadline before.
            self.alarm.at_store(flight.deadline)
            return
        when = self._late[id] = moment.returns_at(flight)
        self._by_store.add(when)
        early = when > moment.store
        if flight.traits.expires:
            self._watch_expiry(id, flight.traits.expires)
            self.expiries.count(flight.traits.expires, early=early)
            if flight.traits.group is not None:
                self._ready.note_turn(flight.traits.expires, id)
        self._ready.came_back(id)
        if early:
            expires = flight.traits.expires
            self.returns[EXPIRING if expires else flight.traits.priority].add(when, id)
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
        later = self.dues.size() + self.returns.size() + len(self.expiries.agenda)
        if self._ready.size() + later + len(self.overdue) + len(self.exhausted) > most:
            self.reindex()

    def _sweep_deadlines(self, added: int) -> None:
        self._flights.spread()
        if self.deadlines.sweep(added, self._moment.store):
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
        moment.store, moment.wall = max(moment.store, now.store), now.wall
        self._pass_deadlines(moment.store)
        self._ready.batches.pass_to(moment.store)
        self._pass_returns(moment.store)
        self._pass_dues(now.wall)
        if batch := self._ready.batches.take_any():
            self._open(batch)
        self.overdue += self._ready.pass_turns(now.wall)
        self._set_bounds()
        self._is_stale = False

    def _pass_deadlines(self, now_ms: int) -> None:
        moment, batches = self._moment, self._ready.batches
        for kind, times, ids in self.deadlines.take(now_ms):
            level, attempts, care = kind
            if care == AT_ONCE:
                for id, flight in self._timed_out(times, ids):
                    self._time_out(id, flight)
                continue
            if not self._flights:
                continue

            def ready_from(deadline: int, attempts: int = attempts) -> int | None:
                if attempts >= moment.attempts_max:
                    return None
                return moment.returns_from(deadline, attempts)

            before = len(batches)
            batches.add(kind, level, times, ids, ready_from, moment.returns_by(times[-1], attempts), now_ms)
            if care or attempts >= moment.attempts_max:
                self._urgent += len(batches) - before
            self._ready.many_came_back(len(ids))
        self.deadlines.forget_empty(FIRST)

    def _timed_out(self, times: Sequence[int], ids: Sequence[int]) -> list[tuple[int, Flight]]:
        """The deliveries among these that are in force, and not known to have timed out."""
        flights, late = self._flights, self._late
        return [
            (id, flight)
            for when, id in zip(times, ids, strict=True)
            if (flight := flights.get(id)) and flight.deadline == when and id not in late
        ]

    def _pass_returns(self, now_ms: int) -> None:
        for kind, times, ids in _passed(self.returns, now_ms):
            if kind == EXPIRING:
                for when, id in zip(times, ids, strict=True):
                    if self._is_return(when, id):
                        if flight := self._flights.get(id):
                            self.expiries.not_early(flight.traits.expires)
                            self._ready.push(id, flight.traits)
                        else:
                            self._end_delay(id)
            else:
                self._come_back(kind, times, ids)

    def _pass_dues(self, now_ms: int) -> None:
        for kind, times, ids in _passed(self.dues, now_ms):
            if kind == EXPIRING:
                for when, id in zip(times, ids, strict=True):
                    if self._is_due(when, id):
                        self._end_delay(id)
            else:
                self._come_back(kind, times, ids)

    def _come_back(self, kind: int, times: array[int], ids: Sequence[int]) -> None:
        """The delays of messages, or their backoffs, are over; in some cases they were put off since."""
        if kind <= GROUPED:
            self._ready.batches.add(IN_GROUP, GROUPED - kind, times, ids, lambda _: 0, 0, 0)
        elif times[0] == times[-1]:
            self._ready.push_run(ids, kind)
        else:
            for at in range(0, len(ids), BATCH_IDS):
                self._ready.push_run(sorted(ids[at : at + BATCH_IDS]), kind)

    def _end_delay(self, id: int) -> None:
        """The delay of a message that expires, or its backoff, is over."""
        traits = self._delayed[id].traits
        self.expiries.not_early(traits.expires)
        if traits.group is None:
            self._ready.push(id, traits)
        else:
            self._ready.promote(traits.group)

    # ── batches ────────────────────────────────────────────────────────────────────

    def is_behind(self) -> bool:
        """Whether a batch is not open; each `advance` opens one."""
        return len(self._ready.batches) > 0

    def open_next(self) -> None:
        """Open the batch that may hold the next message."""
        self._begin()
        self._open(self._ready.batches.take_next())
        self._set_bounds()
        self._is_stale = False

    def open_any(self) -> None:
        """Open a batch, if there is one."""
        self._begin()
        if batch := self._ready.batches.take_any():
            self._open(batch)
        self._set_bounds()
        self._is_stale = False

    def _open(self, batch: Batch) -> None:
        """Put each entry where its message belongs, unless it is out of date."""
        level, attempts, care = batch.key
        if batch.key == IN_GROUP:
            for id in batch.ids:
                entry = self._delayed.get(id)
                if entry and entry.traits.group is not None and not self._moment.is_early(entry):
                    self._ready.promote(entry.traits.group)
            return
        moment, timed_out = self._moment, self._timed_out(batch.times, batch.ids)
        if attempts >= moment.attempts_max or care:
            self._urgent -= 1
            for id, flight in timed_out:
                self._time_out(id, flight)
            return
        returns, now_ms = moment.returns_at, moment.store
        latest = moment.returns_by(batch.times[-1], attempts)
        if latest <= now_ms:  # as a rule: each of them is ready, whatever its backoff was
            found = dict.fromkeys([id for id, _ in timed_out], latest)
        else:
            found = {id: returns(flight) for id, flight in timed_out}
        self._late.put_all(found.keys(), found.values())
        self._by_store.add_all(found.values())
        self._ready.push_run(sorted([id for id, when in found.items() if when <= now_ms]), level)
        self.returns[level].add_all(sorted([(when, id) for id, when in found.items() if when > now_ms]))

    def _set_bounds(self) -> None:
        batches, expiry = self._ready.batches, self.expiries.agenda.first()
        nexts = [when for when in (self.deadlines.first(), self.returns.first()) if when is not None]
        self.next_store = 0 if batches else min(nexts, default=NEVER)
        due = self.dues.first()
        self._next_wall = NEVER if due is None else due  # wall time, ms: nothing comes due before that
        if expiry:  # what has expired already does not say when the next one does
            self._next_wall = min(self._next_wall, max(expiry[0], self._moment.wall + 1))

    # ── questions; after `advance` ─────────────────────────────────────────────────

    def in_flight(self) -> Iterator[int]:
        """The ids of what is in flight, the next to time out first; once all `batches.last_count` are open.

        An exhausted delivery is so until it is dead, though it has timed out.
        """
        flights = self._flights
        exhausted = [(flights[id].deadline, id) for id in set(self.exhausted) if self.is_exhausted(id)]
        pending = filter(lambda pair: self.deadlines.is_valid(*pair), self.deadlines.ascending())
        return _unique(id for _, id in merge(sorted(exhausted), pending))

    def later(self, ahead_ms: int) -> Iterator[int]:
        """The ids of what is early, the next to be ready first; once all batches are open.

        *ahead_ms*: wall time less store time.
        """
        dues = filter(lambda pair: self._is_due(*pair), self.dues.ascending())
        returns = filter(lambda pair: self._is_return(*pair), self.returns.ascending())
        wall = ((when + ahead_ms, id) for when, id in returns)
        return filterfalse(self.has_expired, _unique(id for _, id in merge(dues, wall)))

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until a deadline passes or a delay ends; None if there is none.  No `advance` before."""
        if self._is_stale:
            self.reindex()
        rests, nexts = self._ready.batches.rests_until, list[int]()
        store = [self.deadlines.first_valid(), first_valid(self.returns, self._is_return), rests]
        nexts += [when - now.store for when in store if when is not None]
        if (due := first_valid(self.dues, self._is_due)) is not None:
            nexts.append(due - now.wall)
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

    def are_counted(self) -> bool:
        """Whether `counts` can say how many: whatever is not open yet is all the same, and not watched."""
        batches = self._ready.batches
        return not batches or (
            batches.alike(self._moment.store) is not None
            and self._urgent == batches.last_count
            and self.deadlines.size() <= FEW
        )

    def counts(self) -> tuple[int, int]:
        """How many are in flight, and how many early; if `are_counted`."""
        bound = self.next_store
        self._begin()
        early = self._by_wall.left(self._moment.wall) + self._by_store.left(self._moment.store)
        self._is_stale, self.next_store = False, bound
        in_flight = len(self._flights) - len(self._late) + self.exhausted_count
        if (are := self._ready.batches.alike(self._moment.store)) in ("delayed", "ready"):
            in_batches = len(self._flights) - len(self._late) - self.deadlines.count_valid()
            in_flight -= in_batches
            early += in_batches * (are == "delayed")
        return in_flight, early

    def _is_return(self, when: int, id: int) -> bool:
        if entry := self._delayed.get(id):
            return entry.backoff_until == when
        return self._late.get(id) == when

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
        if self.exhausted or self.broken or self._urgent:
            self.alarm.at_store(0)
        elif self._work_at_deadlines or self._moment.attempts_max != NEVER:
            deadline = self.deadlines.first_valid()
            if deadline is not None:
                self.alarm.at_store(deadline)
        if (when := self._remembered.look_at) is not None:
            self.alarm.at_store(when)


def _kind(traits: Traits) -> int:
    """Of a message that is delayed."""
    if traits.expires:
        return EXPIRING
    return traits.priority if traits.group is None else GROUPED - traits.priority


def _passed(agendas: Agendas, now_ms: int) -> list[tuple[int, array[int], Sequence[int]]]:
    """`agendas.take`; of what expires, each entry once."""
    if (first := agendas.first()) is None or first > now_ms:
        return []
    found, pairs = [], set[tuple[int, int]]()
    for kind, times, ids in agendas.take(now_ms):
        if kind == EXPIRING:
            pairs.update(zip(times, ids, strict=True))
        else:
            found.append((kind, times, ids))
    if pairs:
        listed = sorted(pairs)
        found.append((EXPIRING, array("Q", [when for when, _ in listed]), [id for _, id in listed]))
    return found


def _unique(ids: Iterable[int]) -> Iterator[int]:
    """*ids*, each the first time."""
    seen = set[int]()
    for id in ids:
        if id not in seen:
            seen.add(id)
            yield id
