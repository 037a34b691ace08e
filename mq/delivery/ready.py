"""What is next in one queue: an index over its messages.

                        priority 9   │ 4711  4802 …          ids that only wait, of each
      lanes             priority 0   │  12   13   15   …     priority in publish order
                                     └──────────────────
                         ▲ the smaller rank is next ▼
      heaps: a heap for each priority    5020 …   7   11 …   those that came back, whose delay
      blocks: those that expire                              is over, or whose turn in their
                         ▲                                   group has come
         what timers.py finds due        groups: the first of each, if none of it is in flight;
                                         else the first of those, once it has timed out

A rank is the id, less 2⁶⁴ for each step of priority: smaller is earlier.  Entries of the index may be
out of date; they are checked against the messages when they come up.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush, merge
from itertools import filterfalse, islice, takewhile
from typing import Any, Final

from .backlog import Backlog
from .batches import Batches
from .blocks import STEP_BITS, Blocks
from .groups import Group
from .heaps import Heaps
from .moment import ID, Moment
from .table import Table
from .traits import LEVELS, PLAIN, Delayed, Flight, Traits

AGES_SHARE: Final = 4  # entries of `_ages` for each message: beyond that it is made anew when it is asked for
HELD_TOGETHER_MAX: Final = 1000  # messages of one group in a batch: they may all go back at once
STALE_MAX: Final = 64  # entries that may be out of date before an index is swept
OPEN_MAX: Final = 8  # batches that are opened for one receive, if it finds a message in them


class _Present:
    """The ids that are delayed or in flight, and have not expired while they waited."""

    __slots__ = ("_delayed", "_flights", "_moment")

    def __init__(self, delayed: Table[Delayed], flights: Table[Flight], moment: Moment) -> None:
        self._delayed, self._flights, self._moment = delayed, flights, moment

    def __contains__(self, id: object) -> bool:
        entry = self._delayed.get(id)  # type: ignore[arg-type]
        if entry is None:
            return id in self._flights
        return not 0 < entry.traits.expires <= self._moment.wall


class Ready:
    """The tables are the queue's own, which changes them; this class changes `lanes` only."""

    __slots__ = (
        "_ages", "_blocked", "_blocks", "_delayed", "_flights", "_heaps", "_lanes", "_moment", "_present",
        "_turns", "_waiting", "batches", "groups", "levels",
    )  # fmt: skip

    def __init__(
        self, waiting: Backlog, lanes: dict[int, Backlog], delayed: Table[Delayed],
        flights: Table[Flight], moment: Moment,
    ) -> None:  # fmt: skip
        self._waiting, self._lanes, self._delayed, self._flights = waiting, lanes, delayed, flights
        self._moment = moment
        self._present = _Present(delayed, flights, moment)
        self.clear()

    def clear(self) -> None:
        """Know of nothing but the lanes."""
        self.levels: list[int] = sorted(self._lanes)  # the lanes' priorities, ascending
        self._heaps = Heaps()  # ids that are ready beside the lanes, and do not expire
        self._blocks = Blocks()  # and those that do
        self.groups: dict[str, Group] = {}
        self._blocked: set[str] = set()  # groups whose first is in flight, or early
        self._turns: list[tuple[int, int]] = []  # a heap: when the first of a group expires; its id
        # A heap of the ids that are delayed or have timed out, once the oldest is asked for.
        self._ages: list[int] | None = None
        self.batches = Batches()  # what came due, and is not open

    def contents(self) -> list[Collection[Any]]:
        """What takes long to free; the index is not used any more."""
        return [*self._heaps.contents(), self.groups, self._blocked, self._turns, self._ages or []]

    def size(self) -> int:
        """Entries, without `_ages`."""
        return self._heaps.size + self._blocks.size + len(self._turns) + self.batches.size

    # ── what changes ───────────────────────────────────────────────────────────────

    def lane(self, priority: int) -> Backlog:
        """The ids of *priority* that only wait; made, if there is none."""
        if not priority:
            return self._waiting
        found = self._lanes.get(priority)
        if found is None:
            self._moment.plain_until = 0
            found = self._lanes[priority] = Backlog()
            insort(self.levels, priority)
        return found

    def take_waiting(self, id: int) -> tuple[int, int] | None:
        """*id* does not only wait any more: its position and priority, if it did."""
        for priority in reversed(self.levels):
            if self._lanes[priority].head == id:  # of the highest, as a rule
                return self._take_from(priority, id)
        for priority in (0, *self.levels):
            if found := self._take_from(priority, id):
                return found
        return None

    def _take_from(self, priority: int, id: int) -> tuple[int, int] | None:
        lane = self._lanes[priority] if priority else self._waiting
        position = lane.take(id)
        if position is None:
            return None
        if priority and not lane:
            del self._lanes[priority]
            self.levels.remove(priority)
        return position, priority

    def push(self, id: int, traits: Traits) -> None:
        """It is ready now, and the first of its group if it is in one."""
        self._moment.plain_until = 0
        if traits.expires:
            self._blocks.add(id, traits.priority, traits.expires)
        else:
            self._heaps.add(id, traits.priority)

    def push_run(self, ids: Sequence[int], level: int) -> None:
        """Those of *ids*, which ascend, that are not out of date are ready; they do not expire."""
        if ids:
            self._moment.plain_until = 0
            self._heaps.add_run(ids, level)

    def push_expiring(self, ids: Sequence[int], traits: Traits) -> None:
        """`push`, and `came_back`, for many of the same *traits*, which ascend and expire."""
        self._moment.plain_until = 0
        self._blocks.add_run(ids, traits.priority, traits.expires)
        if self._ages is not None:
            for id in ids:
                self.came_back(id)

    def many_came_back(self, count: int) -> None:
        """So many messages have timed out: the oldest are found anew when they are asked for."""
        if count:
            self._ages = None

    def came_back(self, id: int) -> None:
        """A message is delayed, or has timed out."""
        if self._ages is not None:
            heappush(self._ages, id)
            if len(self._ages) > AGES_SHARE * (len(self._delayed) + len(self._flights) + STALE_MAX):
                self._ages = None

    # ── groups ─────────────────────────────────────────────────────────────────────

    def join(self, name: str, id: int, expires: int) -> Group:
        """A message of group *name* that was not here; it is to be put somewhere next."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group()
        group.join(id, expires)
        return group

    def leave(self, name: str, id: int) -> None:
        """A message of the group is gone."""
        if group := self.groups.get(name):
            group.leave(id, self._present)
            self.promote(name)

    def occupy(self, name: str, id: int) -> None:
        """A message of the group is in flight: the others wait for it."""
        self.groups[name].occupy(id)
        self._blocked.add(name)

    def run_of(self, flight: Flight) -> list[int] | None:
        """The messages that are held together, *flight* among them, in order; None if it is alone."""
        if flight.traits.group is None:
            return None
        run = self.groups[flight.traits.group].in_flight
        return run if len(run) > 1 else None

    def promote(self, name: str) -> None:
        """It may be the turn of another one in this group."""
        group = self.groups[name]
        if not group.count:
            del self.groups[name]
            self._blocked.discard(name)
            return
        if group.in_flight:
            self._blocked.add(name)
            held = group.in_flight[0]
            if self.is_ready(held):  # it timed out while another one was before it
                self.push(held, self._flights[held].traits)
            return
        first = group.first(self._present, self._moment.wall)
        entry = self._delayed.get(first) if first is not None else None
        if first is None or entry is None:
            self._blocked.add(name)
            return
        if self._moment.is_early(entry):
            self._blocked.add(name)
        else:
            self._blocked.discard(name)
            self.push(first, entry.traits)
        if entry.traits.expires and group.count > 1 and group.turn != first:
            group.turn = first
            self.note_turn(entry.traits.expires, first)

    def promote_all(self) -> None:
        """`promote` each group, once all messages have joined."""
        for name, group in list(self.groups.items()):
            alone = group.alone
            if alone is None or self._moment.is_early(self._delayed[alone]):
                self.promote(name)
            else:  # as in most groups
                self._heaps.add(alone, self._delayed[alone].traits.priority)

    def note_turn(self, expires: int, id: int) -> None:
        """The first of a group expires then: the next one's turn comes, though it is there still."""
        heappush(self._turns, (expires, id))

    def pass_turns(self, wall_ms: int) -> list[int]:
        """Go on in the groups whose first has expired.

        The ids of those that hold their group until they are dropped, for they have timed out.
        """
        holding: list[int] = []
        while self._turns and self._turns[0][0] <= wall_ms:
            _, id = heappop(self._turns)
            if entry := self._delayed.get(id):
                if entry.traits.group in self.groups:
                    self.promote(entry.traits.group)
            elif self._moment.has_timed_out(self._flights.get(id)):
                holding.append(id)
        return holding

    # ── questions; all that came due is noted before ───────────────────────────────

    def is_plain(self) -> bool:
        """Whether the head of `waiting` is the next."""
        return not (self._heaps or self._blocks or self.levels) and self.batches.bound is None

    def head(self, open_next: Callable[[], None]) -> int | None:
        """The id that is delivered next; *open_next*: see `Timers`."""
        rank = self._head()
        while (bound := self.batches.bound) is not None and (rank is None or bound <= rank):
            open_next()
            rank = self._head()
        return None if rank is None else rank & ID

    def _head(self) -> int | None:
        """The rank of the id that is next, but for what is not open."""
        first = self._heaps.first(self.is_ready)
        if self._blocks:
            other = self._blocks.first(self._moment.wall, self.is_ready)
            if other is not None and (first is None or other < first):
                first = other
        if self.levels:
            level = self.levels[-1]
            best = self._lanes[level].head
            assert best is not None
            rank = best - (level << STEP_BITS)
            return rank if first is None else min(first, rank)
        best = self._waiting.head
        if first is not None and (best is None or first < best):
            return first
        return best

    def heads(
        self, limit: int, open_next: Callable[[], None], per_group: int | None = 1
    ) -> list[int]:  # fmt: skip
        """The ids that are delivered next, at most *limit*, in order.

        Perhaps fewer (`is_unsure`), if many batches had to be opened for them; *open_next*: see `Timers`.
        *per_group*: so many of a group at most, those behind the first in the order of their ids; None: as
        many as may be held together.
        """
        if self.is_plain():
            return self._waiting.first(limit)
        firsts = self._firsts(limit, open_next)
        if per_group == 1 or not self.groups:
            return firsts
        most = min(per_group or HELD_TOGETHER_MAX, HELD_TOGETHER_MAX)
        return self._in_turn(firsts, limit, most, self._may_follow)

    def _firsts(self, limit: int, open_next: Callable[[], None]) -> list[int]:
        """`heads`, one of a group."""
        opened = 0
        while True:
            bound = self.batches.bound
            ranks = self._ranks()
            if bound is not None:
                ranks = takewhile(bound.__gt__, ranks)
            found = [rank & ID for rank in islice(ranks, limit)]
            if bound is None or len(found) == limit or opened >= OPEN_MAX:
                return found
            enough = self._size_of_ready() + limit - len(found)
            while self.batches.bound is not None:
                open_next()
                opened += 1
                if self._size_of_ready() >= enough or opened % OPEN_MAX == 0:
                    break

    def is_unsure(self, found: Sequence[int], limit: int) -> bool:
        """Whether more than *found* may be ready, in batches that are not open: ask again."""
        return len(found) < limit and self.batches.bound is not None

    def _size_of_ready(self) -> int:
        """Entries beside the lanes."""
        return self._heaps.size + self._blocks.size

    def _ranks(self) -> Iterator[int]:
        """The ranks of all that is ready, in order, but for what is not open."""
        wall = self._moment.wall
        self._heaps.first(self.is_ready)  # what is out of date before them is dropped
        self._blocks.first(wall, self.is_ready)
        expiring = self._blocks.ready(wall, self.is_ready)
        # A message whose expiry changed, as it died or came back from the dead, may stand in both.
        return _each_once(merge(self._heaps.ranks(self.is_ready), expiring, self._lane_ranks()))

    def listed(self, limit: int, open_next: Callable[[], None]) -> list[int]:
        """The ids that are ready, in the order in which they will be delivered if all goes well.

        Of a group that waits for one that is in flight or early, last.  Perhaps fewer: see `heads`.
        """
        found = self._firsts(limit, open_next)
        if not self.groups or self.is_unsure(found, limit):
            return found
        order = self._in_turn(found, limit, None, lambda id, following: self._is_waiting(following))
        done = set(order)
        # Of those whose first is listed, one in the middle may be early.
        names = {*self._blocked, *(name for id in order if (name := self.traits(id).group) is not None)}
        blocked = [filterfalse(done.__contains__, self._members(name)) for name in names]
        order += islice(merge(*blocked, key=self.rank), limit - len(order))
        return order

    def _in_turn(
        self, firsts: list[int], limit: int, most: int | None, may_follow: Callable[[int, int], bool]
    ) -> list[int]:  # fmt: skip
        """*firsts*, and what follows them in their groups, *most* of each, in the order of one by one.

        *may_follow* is given a message, and the next of its group.
        """
        ranks = [self.rank(id) for id in firsts]
        members: dict[str, Iterator[int]] = {}
        counts: dict[str, int] = {}
        order: list[int] = []
        done: set[int] = set()
        while ranks and len(order) < limit:
            id = heappop(ranks) & ID
            order.append(id)
            done.add(id)
            group = self.traits(id).group
            if group is None:
                continue
            counts[group] = counts.get(group, 0) + 1
            if counts[group] == most:
                continue
            if group not in members:
                members[group] = self.groups[group].members(self._present, self._moment.wall)
            following = next((each for each in members[group] if each not in done), None)
            if following is not None and may_follow(id, following):
                heappush(ranks, self.rank(following))
        return order

    def _may_follow(self, id: int, following: int) -> bool:
        """Whether it may be held together with *id*, behind it."""
        return following > id and following in self._delayed and self._is_waiting(following)

    def oldest(self, count: int) -> list[int]:
        """The *count* oldest ids that are not in flight."""
        if self._ages is None:
            timed_out = [id for id, flight in self._flights.items() if self._moment.has_timed_out(flight)]
            self._ages = [*self._delayed, *timed_out]
            heapify(self._ages)
        found: list[int] = []
        ages = self._ages
        while ages and len(found) < count:
            id = heappop(ages)
            is_here = id in self._delayed or self._moment.has_timed_out(self._flights.get(id))
            if is_here and found[-1:] != [id]:
                found.append(id)
        for id in found:
            heappush(ages, id)
        lanes: list[Iterable[int]] = [self._waiting, *self._lanes.values()]
        return list(islice(merge(found, *lanes), count))

    def oldest_ready(self) -> int | None:
        """The oldest id that is ready; perhaps not, if `batches.lowest` is older."""
        ids = [lane.head for lane in (self._waiting, *self._lanes.values()) if lane.head is not None]
        ids += self._heaps.oldest(self.is_ready)
        ids += self._blocks.oldest(self._moment.wall, self.is_ready)
        return min(ids, default=None)

    def rank(self, id: int) -> int:
        return id - (self.traits(id).priority << STEP_BITS)

    def traits(self, id: int) -> Traits:
        """Of a message that is here."""
        entry = self._delayed.get(id) or self._flights.get(id)
        if entry:
            return entry.traits
        for level, lane in self._lanes.items():
            if lane.head == id or id in lane:
                return LEVELS[level]
        return PLAIN

    def is_ready(self, id: int) -> bool:
        """Whether an entry beside the lanes holds."""
        if not self._is_waiting(id):
            return False
        group = self.traits(id).group
        return group is None or self._is_first(group, id)

    def _is_first(self, name: str, id: int) -> bool:
        group = self.groups[name]
        if group.in_flight:
            return group.in_flight[0] == id
        return group.first(self._present, self._moment.wall) == id

    def _is_waiting(self, id: int) -> bool:
        """Whether it is neither early nor in flight, and has not expired."""
        moment = self._moment
        if flight := self._flights.get(id):
            return (
                moment.has_timed_out(flight)
                and moment.returns_at(flight) <= moment.store
                and not moment.has_expired(flight)
            )
        entry = self._delayed.get(id)
        return entry is not None and moment.is_waiting(entry)

    def _members(self, name: str) -> Iterator[int]:
        """Those of the group that are neither in flight, early nor expired, in order."""
        return filter(self._is_waiting, self.groups[name].members(self._present, self._moment.wall))

    def _lane_ranks(self) -> Iterator[int]:
        for level in reversed(self.levels):
            for id in self._lanes[level]:
                yield id - (level << STEP_BITS)
        yield from self._waiting


def _each_once(ranks: Iterable[int]) -> Iterator[int]:
    """*ranks*, which ascend, without repetitions."""
    last = None
    for rank in ranks:
        if rank != last:
            last = rank
            yield rank
