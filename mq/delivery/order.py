"""What is next in one queue: indexes over what is true, and questions about them.

                        priority 9   │ 4711  4802 …          ids that only wait, each
      lanes: ids that   priority 0   │  12   13   15   …     priority in publish order
                                     └──────────────────
                          ▲ the smaller rank is next ▼
      ready: a heap for each priority   5020 …   7   11 …     those that came back, whose
      passing: those that expire                              delay is over, or whose turn
                          ▲                                   in their group has come
           ┌──────────────┼──────────────┐
      dues (wall)   returns (store)   groups: the first of each, if none of it is in flight
                          ▲
                    deadlines (store) ── flights; the last attempt goes to `exhausted`

      expiries (wall): what has expired stays there until it is dropped, a slice at a time;
      `turns` (wall): the first of each group, so that the next one's turn comes before that

A rank is the id, less 2⁶⁴ for each step of priority: smaller is earlier.  Index entries
may be out of date; they are checked against the truth when they come up, and swept when
there are too many.  Whatever is wrong with the indexes (an interruption, a wall clock
that was set back), `reindex` makes them anew from what is true.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import filterfalse, islice
from typing import Final

from .agenda import Agenda
from .backlog import Backlog
from .board import NEVER, Board
from .groups import Group
from .heaps import ascending
from .now import Now
from .passing import STEP_BITS, Passing
from .ready import Ready
from .retry import Backoff
from .tally import Tally
from .traits import LEVELS, PLAIN, Delayed, Flight, Traits, weight

STALE_SHARE: Final = 4  # entries that are looked at for each that is wanted
STALE_MAX: Final = 64  # index entries that may be out of date before they are swept
ID: Final = (1 << STEP_BITS) - 1
SCATTER: Final = 0x9E37_79B9_7F4A_7C15  # spreads receipts evenly


class _Held:
    """The ids that are more than an id, and have not expired while they waited."""

    __slots__ = ("_order",)

    def __init__(self, order: Order) -> None:
        self._order = order

    def __contains__(self, id: object) -> bool:
        entry = self._order.delayed.get(id)  # type: ignore[call-overload]
        if entry is None:
            return id in self._order.flights
        return not 0 < entry.traits.expires <= self._order._wall_seen


class Order:
    def __init__(self, number: int, board: Board) -> None:
        self.number, self.board = number, board
        self.waiting = Backlog()  # priority 0, never delivered
        self.lanes: dict[int, Backlog] = {}  # the same, of other priorities; none is empty
        self.delayed: dict[int, Delayed] = {}
        self.flights: dict[int, Flight] = {}
        self.paused = False
        self.attempts_max = NEVER
        self.backoff = Backoff()
        self._held = _Held(self)
        self._store_seen = self._wall_seen = 0  # all that fell due until then has been noted
        self._store_alarm = self._wall_alarm = NEVER  # what the board knows
        self.delivery_needs_plan = False  # a delivery is more than the next message
        self._watched = 0  # flights, so far
        self._put = 0  # into `delayed`, so far
        self.reindex()

    # ── what the fold tells ────────────────────────────────────────────────────────

    def reindex(self) -> None:
        """Make the indexes anew."""
        # `plain`: nothing is here but what only waits, or is in flight until `next_store`.
        self._busy, self.next_store, self._next_wall, self.plain = True, 0, 0, False
        self.groups: dict[str, Group] = {}
        self.levels: list[int] = sorted(self.lanes)  # the lanes' priorities, ascending
        self._ready = Ready()
        self._passing = Passing()  # the same, of those that expire
        self._expiring, self._expiring_early = Tally(), Tally()  # those that expire, and are not in flight
        self._blocked: set[str] = set()  # groups whose first is in flight, delayed or resting
        self._turns: list[tuple[int, int]] = []  # when the first of a group expires; its id
        self._returns: list[tuple[int, int]] = []
        self._ages: list[int] | None = None  # ids of `delayed`, once somebody asks for the oldest
        self.exhausted: list[int] = []  # flights whose last attempt has timed out
        self.overdue: list[int] = []  # messages that have expired, and go next; most are in `_expiries` still
        self._timed_out = self._resting = self._later = self._exhausted = 0
        self._expires_in_flight = False  # some flight may expire once it has timed out
        self.history_bytes = 0
        dues, expiries, deadlines = [], [], []
        for id, entry in self.delayed.items():
            traits = entry.traits
            if traits.expires:
                self._expiring.add(traits.expires)
            if self._is_early(entry):
                self._later += 1
                if traits.expires:
                    self._expiring_early.add(traits.expires)
                if entry.rests:
                    self._returns.append((entry.rests, id))
                else:
                    dues.append((entry.due, id))
            elif traits.group is None:
                self._push(id, traits)
            if traits.group is not None:
                self._join(traits.group, id, traits.expires)
            if traits.expires:
                expiries.append((traits.expires, id))
            if traits.failures or traits.origin:
                self.history_bytes += weight(traits)
        heapify(self._returns)
        self._dues, self._expiries = Agenda(dues), Agenda(expiries)
        for id, flight in self.flights.items():
            if flight.traits.group is not None:
                self._join(flight.traits.group, id, flight.traits.expires).in_flight = id
            self.history_bytes += weight(flight.traits)
            if flight.deadline > self._store_seen:
                deadlines.append((flight.deadline, id))
                self._expires_in_flight = self._expires_in_flight or flight.traits.expires > 0
            else:
                self._time_out(id, flight)
        self._deadlines = Agenda(deadlines)
        for name, group in list(self.groups.items()):
            alone = group.alone
            if alone is None or self._is_early(self.delayed[alone]):
                self._promote(name)
            else:  # as in most groups
                self._ready.add(alone, self.delayed[alone].traits.priority)
        self._set_bounds()
        self._busy = False
        self._store_alarm = self._wall_alarm = NEVER
        self.set_alarms()

    def put_delayed(self, id: int, entry: Delayed) -> None:
        """*id* waits as *entry* says; of its group it is a member already."""
        self.plain = False
        self.delayed[id] = entry
        traits = entry.traits
        if traits.expires:
            self._watch_expiry(id, traits.expires)
            self._expiring.add(traits.expires)
        if self._ages is not None:
            heappush(self._ages, id)
        if self._is_early(entry):
            self._later += 1
            if traits.expires:
                self._expiring_early.add(traits.expires)
            if entry.rests:
                heappush(self._returns, (entry.rests, id))
                self.next_store = min(self.next_store, entry.rests)
            else:
                self._dues.add(entry.due, id)
                self._next_wall = min(self._next_wall, entry.due)
        elif traits.group is None:
            self._push(id, traits)
        if traits.group is not None:
            self._promote(traits.group)
        self._put += 1
        if not self._put % STALE_MAX:
            self._sweep()

    def _sweep(self) -> None:
        """Make the indexes anew if most of them is out of date."""
        most = 4 * (len(self.delayed) + len(self.flights) + STALE_MAX)
        ready = self._ready.size + self._passing.size
        later = len(self._dues) + len(self._returns) + len(self._expiries) + len(self._turns)
        due = len(self.overdue) + len(self.exhausted)
        if ready + later + due > most or (self._ages and len(self._ages) > most):
            self.reindex()

    def take_delayed(self, id: int) -> Delayed | None:
        """*id* does not wait any more."""
        entry = self.delayed.pop(id, None)
        if entry:
            expires = entry.traits.expires
            if expires:
                self._expiring.remove(expires)
            if self._is_early(entry):
                self._later -= 1
                if expires:
                    self._expiring_early.remove(expires)
        return entry

    def put_flight(self, id: int, flight: Flight) -> None:
        """*id* is in flight; of its group it is a member already."""
        self.flights[id] = flight
        if flight.traits.group is not None:
            self.groups[flight.traits.group].in_flight = id
            self._blocked.add(flight.traits.group)
        self.watch(id, flight)

    def take_flight(self, id: int) -> Flight | None:
        """*id* is not in flight any more."""
        flight = self.flights.pop(id, None)
        if flight and flight.deadline <= self._store_seen:
            self.undo_time_out(flight)
        return flight

    def watch(self, id: int, flight: Flight) -> None:
        """Note when *flight* times out."""
        deadline = flight.deadline
        if deadline <= self._store_seen:
            self._time_out(id, flight)
            return
        # Entries are not removed on ack: an ack is far more common than a timeout, so
        # the stale ones are paid for here, in one sweep for as many new ones.
        self._watched += 1
        self._deadlines.add(deadline, id)
        if deadline < self.next_store:
            self.next_store = deadline
        if flight.traits.expires:
            self._expires_in_flight = True
            self._alarm_store(deadline)
        elif flight.attempts >= self.attempts_max:
            self._alarm_store(deadline)
        if not self._watched % STALE_MAX:
            self._sweep_deadlines()

    def watch_run(self, ids: Sequence[int], deadline: int) -> None:
        """`watch` for first attempts, of messages that do not expire; their *deadline* is to come."""
        if len(self.flights) == len(ids):  # all others are settled
            self._deadlines = Agenda()
        self._deadlines.add_run(deadline, ids)
        if deadline < self.next_store:
            self.next_store = deadline
        if self.attempts_max <= 1:
            self._alarm_store(deadline)
        self._sweep_deadlines()

    def _sweep_deadlines(self) -> None:
        """Have only those that are in force, if most are not."""
        if len(self._deadlines) <= 2 * len(self.flights) + STALE_MAX:
            return
        self._deadlines = Agenda(
            (each.deadline, id) for id, each in self.flights.items() if each.deadline > self._store_seen
        )
        self._sweep()

    def undo_time_out(self, flight: Flight) -> None:
        """A flight that had timed out is another one now, or none."""
        self._timed_out -= 1
        if flight.attempts >= self.attempts_max:
            self._exhausted -= 1
            return
        expires = flight.traits.expires
        if expires:
            self._expiring.remove(expires)
        if self.returns_at(flight) > self._store_seen:
            self._resting -= 1
            if expires:
                self._expiring_early.remove(expires)

    def join(self, id: int, traits: Traits) -> None:
        """A message that was not here; to be put somewhere next."""
        if traits.group is not None:
            self._join(traits.group, id, traits.expires)
        if traits.failures or traits.origin:
            self.history_bytes += weight(traits)

    def depart(self, id: int, traits: Traits) -> None:
        """A message that was taken from where it was, and is not here any more."""
        if traits.failures or traits.origin:
            self.history_bytes -= weight(traits)
        if traits.group is not None and (group := self.groups.get(traits.group)):
            group.leave(id, self._held)
            self._promote(traits.group)

    def end_turn(self, traits: Traits) -> None:
        """A message came back from a flight: its group may go on."""
        if traits.group is not None:
            self.groups[traits.group].in_flight = None

    def lane(self, priority: int) -> Backlog:
        if not priority:
            return self.waiting
        found = self.lanes.get(priority)
        if found is None:
            self.plain = False
            found = self.lanes[priority] = Backlog()
            insort(self.levels, priority)
        return found

    def take_waiting(self, id: int) -> tuple[int, int] | None:
        """*id* does not only wait any more: its position and priority, if it did."""
        for priority in reversed(self.levels):
            if self.lanes[priority].head == id:  # of the highest, as a rule
                return self._take_from(priority, id)
        for priority in (0, *self.levels):
            if found := self._take_from(priority, id):
                return found
        return None

    def _take_from(self, priority: int, id: int) -> tuple[int, int] | None:
        lane = self.lanes[priority] if priority else self.waiting
        position = lane.take(id)
        if position is None:
            return None
        if priority and not lane:
            del self.lanes[priority]
            self.levels.remove(priority)
        return position, priority

    # ── questions ──────────────────────────────────────────────────────────────────

    def head(self, now: Now) -> int | None:
        """The id that is delivered next at *now*."""
        if now.store >= self.next_store or now.wall >= self._next_wall or now.wall < self._wall_seen:
            self.advance(now)
        if self._ready or self._passing or self.levels or self.paused:
            return self._pick()
        self.plain = self._next_wall == NEVER and not self.delivery_needs_plan
        return self.waiting.head

    def heads(self, now: Now, limit: int) -> list[int]:
        """The ids that are delivered next at *now*, at most *limit*, in order: one of a group."""
        if now.store >= self.next_store or now.wall >= self._next_wall or now.wall < self._wall_seen:
            self.advance(now)
        if not self._ready and not self._passing and not self.levels:
            return self.waiting.first(limit)
        self._ready.first(self._is_ready)  # what is out of date before them is dropped
        self._passing.first(self._wall_seen, self._is_ready)
        passing = self._passing.ready(self._wall_seen, self._is_ready)
        # One that was dead meanwhile, and expires now or does not any more, stands in both of the first.
        ranks = _each_once(merge(self._ready.ranks(self._is_ready), passing, self._lane_ranks()))
        return [rank & ID for rank in islice(ranks, limit)]

    def listed(self, now: Now, limit: int) -> list[int]:
        """The ids that are ready at *now*, in the order in which they will be delivered if all goes well.

        Of a group that waits for one that is in flight or delayed, last.
        """
        found = self.heads(now, limit)
        if not self.groups:
            return found
        ranks = [self.rank(id) for id in found]
        members: dict[str, Iterator[int]] = {}
        order: list[int] = []
        done: set[int] = set()
        while ranks and len(order) < limit:
            id = heappop(ranks) & ID
            order.append(id)
            done.add(id)
            group = self.traits(id).group
            if group is not None:
                if group not in members:
                    members[group] = self.groups[group].members(self._held, self._wall_seen)
                following = next((each for each in members[group] if each not in done), None)
                entry = self.delayed.get(following) if following is not None else None
                if following is not None and entry and self._is_waiting(entry):
                    heappush(ranks, self.rank(following))
        names = {*self._blocked, *members}  # in the latter one in the middle may be delayed
        blocked = [filterfalse(done.__contains__, self._members(name)) for name in names]
        order += islice(merge(*blocked, key=self.rank), limit - len(order))
        return order

    def _members(self, name: str) -> Iterator[int]:
        """Those of the group that are neither in flight, delayed nor expired, in order."""
        for id in self.groups[name].members(self._held, self._wall_seen):
            entry = self.delayed.get(id)
            if entry and self._is_waiting(entry):
                yield id

    def in_flight(self) -> Iterator[int]:
        """The ids of what is in flight, the next to time out first; once the time is known.

        A last attempt is so until it is dead, though it has timed out.
        """
        exhausted = ((self.flights[id].deadline, id) for id in set(self.exhausted) if self.is_exhausted(id))
        pending = filter(lambda pair: self._is_deadline(*pair), self._deadlines.ascending())
        return _unique(id for _, id in merge(sorted(exhausted), pending))

    def later(self, ahead_ms: int) -> Iterator[int]:
        """The ids of what is delayed or rests, the next to be ready first.

        *ahead_ms*: wall time less store time.
        """
        dues = filter(lambda pair: self._is_due(*pair), self._dues.ascending())
        returns = filter(lambda pair: self._is_return(*pair), ascending(self._returns))
        wall = ((when + ahead_ms, id) for when, id in returns)
        return filterfalse(self.has_expired, _unique(id for _, id in merge(dues, wall)))

    def oldest(self, count: int) -> list[int]:
        """The *count* oldest ids that are not in flight, as far as the time is known."""
        if self._ages is None:
            self._ages = [*self.delayed, *filter(self._has_timed_out, self.flights)]
            heapify(self._ages)
        found: list[int] = []
        ages = self._ages
        while ages and len(found) < count:
            id = heappop(ages)
            if (id in self.delayed or self._has_timed_out(id)) and found[-1:] != [id]:
                found.append(id)
        for id in found:
            heappush(ages, id)
        lanes: list[Iterable[int]] = [self.waiting, *self.lanes.values()]
        return list(islice(merge(found, *lanes), count))

    def oldest_ready(self, now: Now) -> int | None:
        """The oldest id that is ready."""
        self.advance(now)
        ids = [lane.head for lane in (self.waiting, *self.lanes.values()) if lane.head is not None]
        ids += self._ready.oldest(self._is_ready)
        ids += self._passing.oldest(self._wall_seen, self._is_ready)
        return min(ids, default=None)

    def seconds_to_next(self, now: Now) -> float | None:
        """How long until a deadline passes or a delay ends; None if there is none."""
        if self._busy:
            self.reindex()
        deadline = self._first_deadline()
        while self._returns and not self._is_return(*self._returns[0]):
            heappop(self._returns)
        while (due := self._dues.first()) and not self._is_due(*due):
            self._dues.pop()
        nexts = [] if deadline is None else [deadline - now.store]
        if self._returns:
            nexts.append(self._returns[0][0] - now.store)
        if due:
            nexts.append(due[0] - now.wall)
        return max(0, min(nexts)) / 1000 if nexts else None

    def rank(self, id: int) -> int:
        return id - (self.traits(id).priority << STEP_BITS)

    def traits(self, id: int) -> Traits:
        """Of a message that is here."""
        entry = self.delayed.get(id) or self.flights.get(id)
        if entry:
            return entry.traits
        for level, lane in self.lanes.items():
            if lane.head == id or id in lane:
                return LEVELS[level]
        return PLAIN

    def returns_at(self, flight: Flight) -> int:
        """When a delivery that timed out is tried again, in store time: the backoff counts from its deadline.

        The spread comes from the receipt, so that all processes say the same.
        """
        chance = (flight.receipt * SCATTER & ID) / (ID + 1)
        return flight.deadline + int(self.backoff.delay(flight.attempts, chance) * 1000)

    def has_expired(self, id: int) -> bool:
        """Whether a message that is not in flight has, as far as the time is known.

        One whose last attempt has timed out has failed: it dies, and does not expire.
        """
        entry: Delayed | Flight | None = self.delayed.get(id)
        if entry is None and self._has_timed_out(id):
            entry = self.flights[id]
        return entry is not None and 0 < entry.traits.expires <= self._wall_seen

    def _has_timed_out(self, id: int) -> bool:
        """Whether it has timed out, and will be tried again."""
        flight = self.flights.get(id)
        return (
            flight is not None and flight.deadline <= self._store_seen and flight.attempts < self.attempts_max
        )

    def is_exhausted(self, id: int) -> bool:
        """Whether its last attempt has timed out."""
        flight = self.flights.get(id)
        return (
            flight is not None
            and flight.deadline <= self._store_seen
            and flight.attempts >= self.attempts_max
        )

    def expired_counts(self) -> tuple[int, int]:
        """How many have expired, and no process came by yet; and how many of those rest, for their time."""
        bound = self.next_store
        self._busy, self.next_store = True, 0  # interrupted from here on, the next look begins anew
        found = self._expiring.passed(self._wall_seen), self._expiring_early.passed(self._wall_seen)
        self._busy, self.next_store = False, bound
        return found

    def exhausted_count(self) -> int:
        """How many have timed out for the last time, and no process came by yet."""
        return self._exhausted

    # ── time ───────────────────────────────────────────────────────────────────────

    def advance(self, now: Now) -> None:
        """Note whose time has come."""
        if now.wall < self._wall_seen:
            self._busy, self.next_store = True, 0  # first: interrupted here, the next look begins anew too
            self._wall_seen = now.wall
        if self._busy:
            self.reindex()
        # Interrupted from here on, the next look begins anew.
        self._busy, self.next_store = True, 0
        expiry = self._expiries.first()
        if expiry and self._wall_seen < expiry[0] <= now.wall:
            self.board.next = 0  # sooner than it knew, if the wall clock has jumped
        before = self._store_seen
        self._store_seen, self._wall_seen = max(before, now.store), now.wall
        self._pass_deadlines(before, self._store_seen)
        self._pass_dues(now.wall)
        self._pass_turns(now.wall)
        self._set_bounds()
        self._busy = False

    def _pass_deadlines(self, before_ms: int, now_ms: int) -> None:
        last = None
        while (pair := self._deadlines.first()) and pair[0] <= now_ms:
            self._deadlines.pop()
            if pair != last and self._is_deadline(*pair):
                self._time_out(pair[1], self.flights[pair[1]])
            last = pair
        last = None  # of the returns: one may be for the very moment, and message, of a deadline
        while self._returns and self._returns[0][0] <= now_ms:
            pair = heappop(self._returns)
            if pair != last and self._is_return(*pair):
                if flight := self.flights.get(pair[1]):
                    # What has timed out just now did not rest: the entry is of an earlier flight.
                    if flight.deadline > before_ms:
                        continue
                    self._resting -= 1
                    if flight.traits.expires:
                        self._expiring_early.remove(flight.traits.expires)
                    self._push(pair[1], flight.traits)
                else:
                    self._arrive_in_time(pair[1])
            last = pair

    def _pass_dues(self, now_ms: int) -> None:
        moment, arrived = 0, set[int]()
        while (pair := self._dues.first()) and pair[0] <= now_ms:
            self._dues.pop()
            due, id = pair
            if due != moment:
                moment, arrived = due, set()
            # What was put off to the same moment twice is in there twice, and others of that moment between.
            if id not in arrived and self._is_due(due, id):
                arrived.add(id)
                self._arrive_in_time(id)

    def _arrive_in_time(self, id: int) -> None:
        """The delay of a message that waits, or its backoff, is over."""
        self._later -= 1
        traits = self.delayed[id].traits
        if traits.expires:
            self._expiring_early.remove(traits.expires)
        if traits.group is None:
            self._push(id, traits)
        else:
            self._promote(traits.group)

    def _pass_turns(self, now_ms: int) -> None:
        """Where the first of a group has expired the next one's turn comes, though it is there still."""
        while self._turns and self._turns[0][0] <= now_ms:
            _, id = heappop(self._turns)
            if entry := self.delayed.get(id):
                if entry.traits.group in self.groups:
                    self._promote(entry.traits.group)
            elif self._has_timed_out(id):  # it holds its group until it is dropped: so it goes next
                self.overdue.append(id)

    def _set_bounds(self) -> None:
        deadline, due, expiry = self._deadlines.first(), self._dues.first(), self._expiries.first()
        self.next_store = deadline[0] if deadline else NEVER
        if self._returns:
            self.next_store = min(self.next_store, self._returns[0][0])
        self._next_wall = due[0] if due else NEVER
        if expiry:  # what has expired already does not say when the next one does
            self._next_wall = min(self._next_wall, max(expiry[0], self._wall_seen + 1))

    def _time_out(self, id: int, flight: Flight) -> None:
        """The delivery has timed out."""
        self._timed_out += 1
        if flight.attempts >= self.attempts_max:
            self._exhausted += 1
            self.exhausted.append(id)
            # It may have timed out as it began, so no alarm was set for its deadline before.
            self._alarm_store(flight.deadline)
            return
        if flight.traits.expires:
            self._watch_expiry(id, flight.traits.expires)
            self._expiring.add(flight.traits.expires)
            if flight.traits.group is not None:
                heappush(self._turns, (flight.traits.expires, id))
        if self._ages is not None:
            heappush(self._ages, id)
            if len(self._ages) > 4 * (len(self.delayed) + len(self.flights) + STALE_MAX):
                self._ages = None
        when = self.returns_at(flight)
        if when > self._store_seen:
            heappush(self._returns, (when, id))
            self._resting += 1
            self.next_store = min(self.next_store, when)
            if flight.traits.expires:
                self._expiring_early.add(flight.traits.expires)
        else:
            self._push(id, flight.traits)

    def _push(self, id: int, traits: Traits) -> None:
        """It is ready now, or its group's first."""
        self.plain = False
        if traits.expires:
            self._passing.add(id, traits.priority, traits.expires)
        else:
            self._ready.add(id, traits.priority)

    def _watch_expiry(self, id: int, when: int) -> None:
        self.plain = False
        self._expiries.add(when, id)
        self._next_wall = min(self._next_wall, when)
        self._alarm_wall(when)

    # ── work that falls due ────────────────────────────────────────────────────────

    def alarms(self) -> tuple[int, int]:
        """When there is next something to do, as far as the board knows: by store time and by wall time."""
        return self._store_alarm, self._wall_alarm

    def set_alarms(self) -> None:
        """Tell the board when there is next something to do, if it does not know."""
        expiry = self._expiries.first()
        if self.overdue:
            self._alarm_wall(0)
        elif expiry:
            self._alarm_wall(expiry[0])
        if self.exhausted:
            self._alarm_store(0)
        elif self._expires_in_flight or self.attempts_max != NEVER:
            deadline = self._first_deadline()
            if deadline is not None:
                self._alarm_store(deadline)

    def _first_deadline(self) -> int | None:
        """When the next delivery that is still in force times out; what is settled before it is dropped."""
        while (deadline := self._deadlines.first()) and not self._is_deadline(*deadline):
            self._deadlines.pop()
        return deadline[0] if deadline else None

    def _alarm_wall(self, when: int) -> None:
        if when < self._wall_alarm:
            self._wall_alarm = when
            self.board.at_wall(when, self.number)

    def _alarm_store(self, when: int) -> None:
        if when < self._store_alarm:
            self._store_alarm = when
            self.board.at_store(when, self.number)

    def due_to_go(self, now: Now, limit: int) -> tuple[list[int], list[int]]:
        """Up to *limit* ids that have expired, and whose last attempt has timed out.

        None of both, and there may be more: entries that are out of date take their time too.
        """
        self.advance(now)
        self.overdue = [id for id in self.overdue if self.has_expired(id)]
        self._gather(limit)
        while self.exhausted and not self.is_exhausted(self.exhausted[-1]):
            self.exhausted.pop()
        expired = dict.fromkeys(self.overdue[-limit:])
        rest = self.exhausted[len(expired) - limit :] if len(expired) < limit else []
        exhausted = dict.fromkeys(id for id in rest if self.is_exhausted(id))
        return list(expired), list(exhausted)

    def _gather(self, limit: int) -> None:
        """Have up to *limit* of those that have expired in `overdue`; a few times as many are looked at."""
        for _ in range(STALE_SHARE * limit):
            expiry = self._expiries.first()
            if len(self.overdue) >= limit or not expiry or expiry[0] > self._wall_seen:
                return
            self.overdue.append(expiry[1])  # first: interrupted here, it is looked at twice
            self._expiries.pop()
            if not self.has_expired(expiry[1]):
                self.overdue.pop()

    def reset_alarms(self, now: Now) -> None:
        """What fell due until *now* is done, or in part: say when there is next something to do."""
        self.board.done(self.number, now)
        self._store_alarm = self._wall_alarm = NEVER
        self.set_alarms()

    def postpone(self, now: Now, until: int) -> None:
        """What fell due until *now* cannot be done: look again at *until*, store time."""
        self.board.done(self.number, now)
        self._store_alarm = self._wall_alarm = NEVER
        self._alarm_store(until)

    # ── inside ─────────────────────────────────────────────────────────────────────

    def _pick(self) -> int | None:
        first = self._ready.first(self._is_ready)
        if self._passing:
            other = self._passing.first(self._wall_seen, self._is_ready)
            if other is not None and (first is None or other < first):
                first = other
        if self.paused:
            return None
        if self.levels:
            level = self.levels[-1]
            best = self.lanes[level].head
            assert best is not None
            if first is not None and first < best - (level << STEP_BITS):
                return first & ID
            return best
        best = self.waiting.head
        if first is not None and (best is None or first < best):
            return first & ID
        return best

    def _lane_ranks(self) -> Iterator[int]:
        for level in reversed(self.levels):
            for id in self.lanes[level]:
                yield id - (level << STEP_BITS)
        yield from self.waiting

    def _is_ready(self, id: int) -> bool:
        if flight := self.flights.get(id):
            return (
                self._has_timed_out(id)
                and self.returns_at(flight) <= self._store_seen
                and not 0 < flight.traits.expires <= self._wall_seen
            )
        entry = self.delayed.get(id)
        if entry is None or not self._is_waiting(entry):
            return False
        group = entry.traits.group
        return group is None or self._is_first(group, id)

    def _is_waiting(self, entry: Delayed) -> bool:
        """Whether it is neither delayed nor expired."""
        return not self._is_early(entry) and not 0 < entry.traits.expires <= self._wall_seen

    def _is_early(self, entry: Delayed) -> bool:
        """Whether its delay, or its backoff, is not over."""
        return entry.due > self._wall_seen or entry.rests > self._store_seen

    def _is_first(self, name: str, id: int) -> bool:
        group = self.groups[name]
        return group.in_flight is None and group.first(self._held, self._wall_seen) == id

    def _join(self, name: str, id: int, expires: int) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group()
        group.join(id, expires)
        return group

    def _promote(self, name: str) -> None:
        """It may be the turn of another one in this group."""
        group = self.groups[name]
        if not group.count:
            del self.groups[name]
            self._blocked.discard(name)
            return
        first = group.first(self._held, self._wall_seen) if group.in_flight is None else None
        entry = self.delayed.get(first) if first is not None else None
        if first is None or entry is None:
            self._blocked.add(name)
            return
        if self._is_early(entry):
            self._blocked.add(name)
        else:
            self._blocked.discard(name)
            self._push(first, entry.traits)
        if entry.traits.expires and group.count > 1 and group.turn != first:
            group.turn = first
            heappush(self._turns, (entry.traits.expires, first))

    def _is_deadline(self, deadline: int, id: int) -> bool:
        flight = self.flights.get(id)
        return flight is not None and flight.deadline == deadline

    def _is_return(self, when: int, id: int) -> bool:
        if entry := self.delayed.get(id):
            return entry.rests == when
        return self._has_timed_out(id) and self.returns_at(self.flights[id]) == when

    def _is_due(self, due: int, id: int) -> bool:
        entry = self.delayed.get(id)
        return entry is not None and entry.due == due


def _each_once(ranks: Iterable[int]) -> Iterator[int]:
    """*ranks*, which ascend, without repetitions."""
    last = None
    for rank in ranks:
        if rank != last:
            last = rank
            yield rank


def _unique(ids: Iterable[int]) -> Iterator[int]:
    """*ids*, each the first time."""
    seen = set[int]()
    for id in ids:
        if id not in seen:
            seen.add(id)
            yield id
