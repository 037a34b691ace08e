"""Messages that go elsewhere as they are: to another queue, or in from another store.

    Transfer    orders ── MOVE, WHOLE ──► archive           one store: the body stays where it is
    draft       another store ── RELOCATE, id 0 ──► orders   a copy, with an id of its own

Attempts, failures, delay, time to live and the queue in which it died go along.  A delivery stays where it
is: what is in flight does not move, and a copy of it is ready.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from heapq import merge
from itertools import islice
from typing import Final

import msgspec
from msgspec.structs import replace

from mq.errors import QueueFull, UsageError

from . import records, settle
from .attributes import NO_ATTRIBUTES, Attributes, Failed, trailer
from .intake import Room
from .plan import Plan
from .queue import QueueState
from .records import Draft, Move
from .traits import Traits, changes_in
from .under_way import Goal

PART_IDS: Final = 256  # looked up at once
FOREIGN_RECEIPT: Final = 1  # of a delivery in another store; no record stands there


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """A message on its way into a store: all that is known of it.  Wall time, ms."""

    id: int  # where it comes from
    flags: int  # how the body was given
    body: bytes
    created: int
    attempts: int = 0
    due: int = 0  # 0: at once
    expires: int = 0  # 0: never
    origin: str | None = None
    failures: tuple[Failed, ...] = ()
    received: int = 0  # when it was first delivered; 0: never
    said: Attributes = NO_ATTRIBUTES  # its `due` and `expires` do not count

    @property
    def size(self) -> int:
        """About what it takes in the log."""
        return len(self.body) + 256


def tried(queue: QueueState) -> list[int]:
    """The ids of all that is not in a lane; in no order: there may be very many."""
    return [*queue.delayed, *queue.flights]


def following(queue: QueueState, after: int, behind: int, others: Sequence[int]) -> list[int]:
    """The first ids of the queue behind *after* and before *behind*, in order: PART_IDS at most.

    *others*: what `tried` gave, in order.
    """
    parts: list[Iterable[int]] = [
        lane.slice(lane.rank(after + 1), PART_IDS)[0] for lane in (queue.waiting, *queue.lanes.values())
    ]
    begin = bisect_right(others, after)
    parts.append(others[begin : begin + PART_IDS])
    return [id for id in islice(merge(*parts), PART_IDS) if id < behind]


class Transfer:
    """Moving what waits in a queue, or is delayed, to the queue *to* of the same store, a slice at a time.

    The oldest first; what came before *behind*, a position in the log.  *run*: one of the two queues is
    that of this move to another store, or nothing moves.  *past_limits*: also if *to* has no room.
    """

    def __init__(self, to: str, behind: int, *, run: str = "", past_limits: bool = False) -> None:
        self._to, self._behind, self._run, self._past_limits = to, behind, run, past_limits
        self.is_over = False  # neither queue is of the run: another process has brought that to its end
        self._others: list[int] | None = None
        self._in_order = False
        self._after = self._before = -1  # the last id that was looked at: now, and before the last slice
        self._goal = 0  # so many are to be moved
        self._moved = self._moved_before = 0
        self._all = False  # nothing is left

    def go_on(self, count: int) -> None:
        """Move so many more, if they are there."""
        self._goal = self._moved + count

    @property
    def more(self) -> bool:
        """Whether to plan another slice.  Asked between two turns: what was listed is sorted here."""
        if self._others is not None and not self._in_order:
            self._others.sort()
            self._in_order = True
        return not self._all and self._moved < self._goal

    def plan(self, plan: Plan, queue: QueueState, is_late: Callable[[], bool]) -> int:
        """Plan the next slice; how many move with it."""
        if self._others is None:
            self._others = tried(queue)
            return 0
        self._before, self._moved_before = self._after, self._moved
        target, sizes = plan.state.named(self._to), list[int]()
        if self._run and self._run not in (run_of(queue), run_of(target)):
            self.is_over = self._all = True
            return 0
        if target is None:
            raise UsageError(
                f"there is no queue {self._to!r} any more: it was deleted or renamed meanwhile; what was not"
                f" moved is in {queue.name!r}: run the same command again"
            )
        ids = following(queue, self._after, self._behind, self._others)
        self._all = not ids
        for id in ids:
            self._after = id
            if queue.waits(id, plan.now):
                sizes.append(_move(plan, queue, id, target.number))
                self._moved += 1
            if is_late() or self._moved == self._goal:
                break
        if not self._past_limits:
            check_room(plan, target.number, sizes)
        return len(sizes)

    def again(self) -> None:
        """The last slice was not appended: the next one begins with it."""
        self._after, self._moved, self._all = self._before, self._moved_before, False


def _move(plan: Plan, queue: QueueState, id: int, to: int) -> int:
    """Plan it; the message's size."""
    if flight := queue.flights.get(id):  # its delivery has timed out, and no process has noticed
        rest = queue.moment.returns_at(flight) - plan.now.store
        settle.give_up(plan, queue, id, plan.now.wall + rest if rest > 0 else 0)
    size = plan.size_of(queue, id)
    plan.move(queue, records.WHOLE, Move(id, size, to, plan.now.store, 0))
    return size


def run_of(queue: QueueState | None) -> str:
    """Of which move to another store the queue is; "": of none."""
    goal = Goal.of(queue.options) if queue else None
    return goal.run if goal else ""


def room_for(queue: QueueState | None, sizes: Iterable[int]) -> int:
    """For how many messages the queue has room, the first ones of these *sizes*: none is dropped for them."""
    count = total = 0
    room = Room(queue.options, queue.total(), queue.bytes) if queue and queue.bounded else None
    for size in sizes:
        total += size
        if room and not room.has(count + 1, total):
            break
        count += 1
    return count


def check_room(plan: Plan, number: int, sizes: Sequence[int]) -> None:
    """QueueFull if the queue has no room for messages of these *sizes*: none is dropped for them."""
    queue = plan.state.queue(number)
    if queue and room_for(queue, sizes) < len(sizes):
        what = "the next message" if len(sizes) == 1 else f"the next {len(sizes):,} messages"
        raise QueueFull(
            f"queue {queue.name!r} has no room for {what}, {sum(sizes):,} bytes: those that were moved or"
            " copied before are there; raise its limits, or receive and ack some, and go on"
        )


def _said(parcel: Parcel, skew: int) -> Attributes:
    said = replace(parcel.said, due=0, expires=parcel.expires)
    if said.dedup_id is not None:
        said = replace(said, dedup_until=max(0, said.dedup_until - skew))
    return said


def length(parcel: Parcel) -> int:
    """What a queue counts for it: its body, and its attributes if there are any."""
    said = _said(parcel, 0)
    return len(parcel.body) + (len(trailer(said)) if said != NO_ATTRIBUTES else 0)


def draft(number: int, parcel: Parcel, skew: int, *, kept: bool = False) -> Draft:
    """The record that brings a message into queue *number*, with an id of its own.

    *skew*: by how much the wall clock is ahead of store time.  *kept*: a topic retains it.
    """
    said = _said(parcel, skew)
    flags, published = parcel.flags & records.BODY_BITS, parcel.body
    if said != NO_ATTRIBUTES:
        flags, published = flags | records.ATTRIBUTED, published + trailer(said)
    failures = tuple(replace(each, at=max(0, each.at - skew)) for each in parcel.failures)
    traits = Traits(said.priority, said.group, parcel.expires, parcel.origin, failures)
    received = (FOREIGN_RECEIPT, parcel.received) if parcel.received else None
    place = records.KEPT if kept else records.DELAYED if parcel.due else records.WAITING
    facts = 0 if kept else parcel.attempts, place, 0, 0 if kept else parcel.due
    changes = changes_in(said, traits, received)
    return records.relocate(number, 0, parcel.created, facts, flags, published, changes)
