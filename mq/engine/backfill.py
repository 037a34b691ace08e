"""A subscription that starts in the past: what topics retain comes to wait in the queue as well.

    gather   beside the turn     which messages, their sizes, and what of their attributes counts in the queue
    finish   in the turn that    the few that came since; what is over by now is left out
             subscribes          one atomic group: SUBSCRIBE, and BACKFILL for all of them

So the queue gets each message once: by BACKFILL what was published until then, and by its subscription
what is published from then on.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from heapq import merge
from itertools import groupby
from typing import Final, NamedTuple

from mq.delivery import records
from mq.delivery.attributes import NO_ATTRIBUTES, Attributes
from mq.delivery.intake import Room
from mq.delivery.plan import Plan
from mq.delivery.queue import QueueState
from mq.delivery.retention import first_since
from mq.delivery.subscription import Subscription
from mq.delivery.topics import matches
from mq.engine import history
from mq.engine.channel import Channel
from mq.engine.history import Cursor, Retained, Wanted
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.errors import QueueFull

FEW: Final = 256  # messages that are read in the turn that subscribes
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

    @classmethod
    def of(cls, queue: QueueState | None) -> Known:
        return cls(queue.number, tuple(queue.subscriptions.values())) if queue else cls(0, ())


class Found:
    """Messages of one topic that the queue is to get: ids ascend."""

    def __init__(self, topic: str, known: Known) -> None:
        self.topic = topic
        self.ids, self.sizes = array("Q"), array("I")
        self.odd: dict[int, Attributes] = {}  # what counts in the queue, where that is anything
        self.upto = -1  # all up to this id were looked at
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
        del self.ids[:gone]
        del self.sizes[:gone]

    def leave_out(self, queue: QueueState) -> None:
        """Leave out those that are in the queue already: an earlier subscription gave them, which is gone."""
        if not self.ids or queue.holds_none(self.ids):
            return
        kept = [index for index, id in enumerate(self.ids) if id not in queue]
        self.ids = array("Q", [self.ids[index] for index in kept])
        self.sizes = array("I", [self.sizes[index] for index in kept])

    def drafts(self, number: int, topic: int, expires: int) -> Iterator[records.Draft]:
        """*number*: of the queue; *topic*: of what retains them; *expires*: by the queue's time to live."""
        usual = Attributes(expires=expires) if expires else NO_ATTRIBUTES
        if not self.odd:
            yield from _runs(number, topic, self.ids, self.sizes, usual)
            return

        def counts(index: int) -> Attributes:
            found = self.odd.get(self.ids[index], usual)
            if expires and not found.expires:
                return Attributes(found.priority, found.due, expires, found.group)
            return found

        for attributes, alike in groupby(range(len(self.ids)), counts):
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

    def __init__(self, store: Store, asked: Asked, known: Known) -> None:
        self._store, self._asked, self.known = store, asked, known
        self._found: dict[str, Found] = {}  # by topic

    def gather(self) -> None:
        """Read what is retained, until little comes meanwhile."""
        for _ in range(ROUNDS):
            count = 0
            for topic in _topics(self._store, self._asked.pattern):
                count += self._gather(self._of(topic))
            if count <= FEW:
                return

    def _of(self, topic: str) -> Found:
        return self._found.get(topic) or self._found.setdefault(topic, Found(topic, self.known))

    def _gather(self, found: Found) -> int:
        """How many were looked at."""
        after, since_ms = self._asked.after, self._asked.since_ms
        wanted = Wanted(after, since_ms, None)
        if found.upto >= 0:
            wanted = Wanted(max(found.upto, after or 0), None, None)
        cursor, count, match = Cursor(found.topic, wanted), 0, self._asked.match
        wall_ms = self._store.clock.wall_ms()
        while part := history.read_on(self._store, cursor):
            for message in part:
                found.add(message, match, wall_ms)
            count += len(part)
        found.upto = max(found.upto, cursor.before - 1)
        return count

    def finish(self, plan: Plan, number: int) -> None:
        """Plan all of it for queue *number*; called in the turn that subscribes.  QueueFull without room."""
        state, queue = plan.state, plan.state.queue(number)
        several: list[tuple[Found, QueueState]] = []
        for topic in state.topics():
            if matches(self._asked.pattern, topic) and (held := state.topic(topic)):
                found = self._of(topic)
                self._finish(found, held, plan.now.wall)
                if queue:
                    found.leave_out(queue)
                several.append((found, held))
        self._make_room(plan, number, [found for found, _ in several])
        for found, held in several:
            for draft in found.drafts(number, held.number, plan.expires(number)):
                plan.add(*draft)

    def _finish(self, found: Found, held: QueueState, wall_ms: int) -> None:
        """Look at the few that came since, and leave out what the topic does not retain any more."""
        store, waiting = self._store, held.waiting
        first = store.committer.first_retained(held)
        begin = first
        if found.upto >= 0:
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
        oldest, _ = waiting.slice(first, 1)
        found.without(oldest[0] if oldest else 1 << 63)

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


@operation
def known(store: Store, channel: Channel) -> Known:
    """What the queue is now."""
    return store.turn.look(lambda: Known.of(channel.state))


@operation
def _topics(store: Store, pattern: str) -> list[str]:
    """Those that retain something and fit *pattern*."""
    return store.turn.look(lambda: [each for each in store.replica.state.topics() if matches(pattern, each)])
