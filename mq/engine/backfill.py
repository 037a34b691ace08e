"""A subscription that starts in the past: what topics retain comes to wait in the queue as well.

    gather     beside the turn   which messages, their sizes, and what of their attributes counts in the queue
    put aside  in slices, if     BACKFILL for these, into a queue that has no name of users; the newest first,
               they are many     for the topic drops the oldest meanwhile
    finish     in the turn       the few that came since; what is over by now is left out
               that subscribes   one atomic group: SUBSCRIBE, and BACKFILL for those that are not aside;
                                 the queue that was filled aside takes the place of this one

So the queue gets each message once: by BACKFILL what was published until then, and by its subscription
what is published from then on.

A queue that holds something keeps its place: it gets all of them in the turn that subscribes.  What was put
aside for a subscription that did not come to its end is deleted by the process, or, once it has died, as
a queue that is abandoned.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from heapq import merge
from itertools import groupby
from typing import Final, NamedTuple

from mq.delivery import records
from mq.delivery.attributes import NO_ATTRIBUTES, Attributes
from mq.delivery.intake import Room
from mq.delivery.options import ASIDE_KEY
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.retention import first_since
from mq.delivery.state import EXCHANGE, State
from mq.delivery.subscription import Subscription
from mq.delivery.topics import matches
from mq.engine import history
from mq.engine.channel import Channel
from mq.engine.history import Cursor, Retained, Wanted
from mq.engine.operation import operation
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.errors import MqError, QueueFull

FEW: Final = 256  # messages that are read in the turn that subscribes
MANY: Final = 4096  # messages: so many are put aside first
ASIDE_IDS: Final = 1024  # put aside in one turn: two or three milliseconds
ABANDONED_SECONDS: Final = 60.0  # what was put aside stays so long without another slice
ROUNDS: Final = 8  # times that all that came meanwhile is gathered, before it is read in that turn


class Asked(NamedTuple):
    """What a subscription asks for."""

    pattern: str
    match: Mapping[str, str]
    after: int | None  # an id; or
    since_ms: int | None  # wall time


class Known(NamedTuple):
    """What the queue was when gathering began."""

    number: int  # 0: it was not there
    subscriptions: tuple[Subscription, ...]
    ttl: float | None

    @classmethod
    def of(cls, queue: QueueState | None) -> Known:
        if queue is None:
            return cls(0, (), None)
        return cls(queue.number, tuple(queue.subscriptions.values()), queue.options.ttl)


class Found:
    """Messages of one topic that the queue is to get: ids ascend."""

    def __init__(self, topic: str, known: Known) -> None:
        self.topic = topic
        self.ids, self.sizes = array("Q"), array("I")
        self.odd: dict[int, Attributes] = {}  # what counts in the queue, where that is anything
        self.upto = -1  # all up to this id were looked at
        self.unwanted = 0  # the newest id that is retained, and too old to be wanted
        self.lowest: int | None = None  # of the ids that were put aside
        self.torn = False  # some that are missing are newer than that
        # Earlier subscriptions of the queue that have given it some of them already.
        self._earlier = [each for each in known.subscriptions if matches(each.pattern, topic)]

    def add(self, message: Retained, match: Mapping[str, str], wall_ms: int) -> None:
        id, _, flags, _, published = message
        said = records.attributes_at(flags, published)
        if not match.items() <= said.headers.items() or 0 < said.expires <= wall_ms:
            return
        for each in self._earlier:
            if id > each.bound_at and each.match.items() <= said.headers.items():
                return
        self.ids.append(id)
        self.sizes.append(len(published))
        due = said.due if said.due > wall_ms else 0
        if said.priority or said.group is not None or said.expires or due:
            self.odd[id] = Attributes(said.priority, due, said.expires, said.group)

    def without(self, first: int) -> None:
        """Leave out those before the id *first*."""
        gone = bisect_left(self.ids, first)
        if gone and self.lowest is not None and self.ids[gone - 1] > self.lowest:
            self.torn = True
        del self.ids[:gone]
        del self.sizes[:gone]

    def are_aside(self, begin: int) -> None:
        """Those from index *begin* on were put aside."""
        self.lowest = self.ids[begin] if self.lowest is None else min(self.lowest, self.ids[begin])
        del self.ids[begin:]
        del self.sizes[begin:]

    def leave_out(self, queue: QueueState) -> None:
        """Leave out those that are in the queue already: an earlier subscription gave them, which is gone."""
        if not self.ids or queue.holds_none(self.ids):
            return
        kept = [index for index, id in enumerate(self.ids) if id not in queue]
        self.ids = array("Q", [self.ids[index] for index in kept])
        self.sizes = array("I", [self.sizes[index] for index in kept])

    def drafts(self, number: int, topic: int, expires: int, begin: int = 0) -> Iterator[records.Draft]:
        """Of those from index *begin* on.

        *number*: of the queue; *topic*: of what retains them; *expires*: by the queue's time to live.
        """
        usual = Attributes(expires=expires) if expires else NO_ATTRIBUTES
        if not self.odd:
            yield from _runs(number, topic, self.ids[begin:], self.sizes[begin:], usual)
            return

        def counts(index: int) -> Attributes:
            found = self.odd.get(self.ids[index], usual)
            if expires and not found.expires:
                return Attributes(found.priority, found.due, expires, found.group)
            return found

        for attributes, alike in groupby(range(begin, len(self.ids)), counts):
            several = list(alike)
            part = slice(several[0], several[-1] + 1)
            yield from _runs(number, topic, self.ids[part], self.sizes[part], attributes)


def _runs(
    number: int, topic: int, ids: Sequence[int], sizes: Sequence[int], attributes: Attributes
) -> Iterator[records.Draft]:
    for at in range(0, len(ids), records.RUN_MAX):
        behind = at + records.RUN_MAX
        yield records.backfill(number, topic, ids[at:behind], sizes[at:behind], attributes)


class Backfill:
    """What is gathered for one subscription."""

    def __init__(self, store: Store, name: str, asked: Asked, known: Known, *, may_put_aside: bool) -> None:
        """*name*: of the queue."""
        self._store, self._name, self._asked, self._known = store, name, asked, known
        self._found: dict[str, Found] = {}  # by topic
        self._may_put_aside = may_put_aside
        self._aside = ""  # the name of the queue that is filled; empty: there is none

    def gather(self) -> None:
        """Read what is retained, until little comes meanwhile; put it aside if it is much."""
        for _ in range(ROUNDS):
            count = 0
            for topic in _topics(self._store, self._asked.pattern):
                count += self._gather(self._of(topic))
            if self._may_put_aside and sum(len(found.ids) for found in self._found.values()) >= MANY:
                while _put_aside(self._store, self):
                    give_way(self._store)
            if count <= FEW:
                return

    def bound_at(self) -> int:
        """Behind which id the queue has got all that fits, once this is finished."""
        if self._asked.after is not None:
            return max(1, self._asked.after)
        return max([1, *(found.unwanted for found in self._found.values())])

    # ── aside ──────────────────────────────────────────────────────────────────────

    def put_aside(self) -> bool:
        """Put the next slice aside, in a turn; False if there is none, or what was there is gone."""
        committer, state = self._store.committer, self._store.replica.state
        if self._store.clock.store_ms() >= state.board.next:
            committer.do_due()
        plan = committer.plan()
        if not self._can_replace(state) or (part := self._next_part(state)) is None:
            return False
        found, held = part
        name = self._aside or f"{ASIDE_KEY}{self._store.replica.log.end}"
        queue = state.named(name)
        if queue is None:
            plan.declare(name, {"delete_when_abandoned": ABANDONED_SECONDS})
        elif (until := queue.idle.renewal(plan.now)) is not None:
            plan.add(*records.renew(queue.number, until))
        begin = max(0, len(found.ids) - ASIDE_IDS)
        expires = plan.expires(EXCHANGE, self._known.ttl)
        for draft in found.drafts(plan.number(name), held.number, expires, begin):
            plan.add(*draft)
        committer.commit(plan)
        self._aside = name
        found.are_aside(begin)
        return True

    def _next_part(self, state: State) -> tuple[Found, QueueState] | None:
        """A topic of which some are to be put aside, and what it retains."""
        for found in self._found.values():
            if found.ids and (held := state.topic(found.topic)):
                found.without(_oldest(held, self._store.committer.first_retained(held)))
                if found.ids:
                    return found, held
        return None

    def _can_replace(self, state: State) -> bool:
        """Whether another queue can take this one's place; and is there, if it was begun."""
        queue = state.named(self._name)
        holds = queue is not None and (queue.total() or len(queue.dedup) or queue.bounded)
        return not holds and (not self._aside or state.named(self._aside) is not None)

    def give_up(self) -> None:
        """Delete what was put aside, unless it has taken the queue's place."""
        if self._aside:
            with suppress(MqError):  # then it is deleted as abandoned
                _delete(self._store, self._aside)

    # ── what is there ──────────────────────────────────────────────────────────────

    def _of(self, topic: str) -> Found:
        return self._found.get(topic) or self._found.setdefault(topic, Found(topic, self._known))

    def _gather(self, found: Found) -> int:
        """How many were looked at."""
        after, since_ms = self._asked.after, self._asked.since_ms
        wanted, is_new = Wanted(after, since_ms, None), found.upto < 0
        if not is_new:
            wanted = Wanted(max(found.upto, after or 0), None, None)
        cursor, count, match = Cursor(found.topic, wanted), 0, self._asked.match
        wall_ms = self._store.clock.wall_ms()
        while part := history.read_on(self._store, cursor):
            for message in part:
                found.add(message, match, wall_ms)
            count += len(part)
        found.upto = max(found.upto, cursor.before - 1)
        if is_new:
            found.unwanted = cursor.unwanted
        return count

    def finish(self, plan: Plan) -> int | None:
        """Plan what is to come, in the turn that subscribes; the queue's number.  QueueFull without room.

        None if the queue is not what it was, or not what it has to be: then all is to be gathered again.
        """
        state = plan.state
        if Known.of(state.named(self._name)) != self._known or (self._aside and not self._can_replace(state)):
            return None
        aside = state.named(self._aside) if self._aside else None
        number = plan.replace(self._name, aside) if aside else plan.number(self._name)
        queue = state.queue(number)
        several: list[tuple[Found, QueueState]] = []
        for topic in state.topics():
            if matches(self._asked.pattern, topic) and (held := state.topic(topic)):
                found = self._of(topic)
                self._finish(found, held, plan.now.wall)
                if queue:
                    found.leave_out(queue)
                several.append((found, held))
        self._make_room(plan, number, [found for found, _ in several])
        expires = plan.expires(EXCHANGE, self._known.ttl)
        for found, held in several:
            for draft in found.drafts(number, held.number, expires):
                plan.add(*draft)
        return None if any(found.torn for found in self._found.values()) else number

    def _finish(self, found: Found, held: QueueState, wall_ms: int) -> None:
        """Look at the few that came since, and leave out what the topic does not retain any more."""
        store, waiting = self._store, held.waiting
        first = store.committer.first_retained(held)
        begin = first
        is_new = found.upto < 0
        if not is_new:
            begin = max(first, waiting.rank(found.upto + 1))
        elif self._asked.after is not None:
            begin = max(first, waiting.rank(self._asked.after + 1))
        elif self._asked.since_ms is not None:
            created_of = partial(store.committer.created_of, held)
            begin = first_since(waiting, self._asked.since_ms, created_of, first)
        ids, positions = waiting.slice(begin, len(waiting) - begin)
        for id, position in zip(ids, positions, strict=True):
            stored = store.replica.log.read(position)
            created_ms, published = records.published_of(
                stored.kind, stored.flags, stored.time_ms, stored.payload
            )
            found.add(Retained(id, position, stored.flags, created_ms, published), self._asked.match, wall_ms)
            found.upto = id
        if is_new:
            found.unwanted = history.before(waiting, first, begin)
        found.without(_oldest(held, first))

    def _make_room(self, plan: Plan, number: int, several: list[Found]) -> None:
        """Leave out the oldest, if the queue is meant to drop those; else QueueFull if it has no room."""
        queue = plan.state.queue(number)
        if queue is None or not queue.bounded:
            return
        room = Room(queue.options, queue.total(), queue.bytes)
        count = sum(len(each.ids) for each in several)
        if not count or room.has(count, sum(sum(each.sizes) for each in several)):
            return
        if queue.options.overflow != "drop_oldest":
            raise QueueFull(
                f"queue {queue.name!r} has {queue.total():,} messages, and no room for {count:,} retained"
                " ones: nothing was subscribed; raise its limits, or name a later since="
            )
        every = list(merge(*(zip(found.ids, found.sizes, strict=True) for found in several)))
        kept = size = 0  # from behind, as many as fit
        for _, length in reversed(every):
            if not room.has(kept + 1, size := size + length):
                break
            kept += 1
        for found in several:
            found.without(every[-kept][0] if kept else 1 << 63)


def _oldest(held: QueueState, first: int) -> int:
    """The id at index *first* of what a topic retains; behind every id if there is none."""
    ids, _ = held.waiting.slice(first, 1)
    return ids[0] if ids else 1 << 63


@operation
def _put_aside(store: Store, backfill: Backfill) -> bool:
    return store.turn.take(backfill.put_aside)


@operation
def _delete(store: Store, name: str) -> None:
    """The queue *name*, which is no user's, goes if it is there."""

    def delete() -> None:
        plan = store.committer.plan()
        if queue := plan.state.named(name):
            plan.add(*records.delete(queue.number))
            store.committer.commit(plan)

    store.turn.take(delete)


@operation
def known(store: Store, channel: Channel) -> Known:
    """What the queue is now."""
    return store.turn.look(lambda: Known.of(channel.state))


@operation
def _topics(store: Store, pattern: str) -> list[str]:
    """Those that retain something and fit *pattern*."""
    return store.turn.look(lambda: [each for each in store.replica.state.topics() if matches(pattern, each)])
