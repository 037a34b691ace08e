"""What the cleaner moves: the record that stands for each thing that is live, from now on.

    live                              is written again as
    a queue's declaration             DECLARE, with what the queue has counted since
    a dedup id, while it counts       DEDUP
    a subscription                    SUBSCRIBE, with the id from which it counts
    a message, wherever it is         RELOCATE, with its id, attempts, receipt and times
    one that several queues hold      RELOCATE_FANOUT, once, with the same for each of them
    a schedule                        SCHEDULE, with its times by now

Where live things stand is asked of the state: `State.within` finds them, `stands_at` says where one is now.
A new kind of live thing needs its lines in these two, in `State.positions_within`, and in `_written_again`.
"""

from __future__ import annotations

from collections.abc import Iterator

from mq.delivery import fold, records
from mq.delivery.attributes import Attributes, Changes
from mq.delivery.calendar import Entry
from mq.delivery.decode import check
from mq.delivery.queue import QueueState
from mq.delivery.records import Holder
from mq.delivery.state import DECLARATION, Live, declaration_of, stands_at
from mq.delivery.subscription import Subscription
from mq.delivery.traits import changes_in
from mq.engine.received import first_received
from mq.engine.replica import Replica
from mq.storage.tail import Draft

Token = tuple[QueueState, Live]  # something that lives: see State.within


class Mover:
    """See `mq.storage.cleaner.Mover`: all of it is called in a turn."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def within(self, base: int, limit: int) -> Iterator[list[Token]]:
        return self._replica.state.within(base, limit)

    def draft(self, token: Token, base: int, limit: int) -> Draft | None:
        """The record that stands for it from now on; None if it does not live in [base, limit) any more.

        One that recovery would refuse is an error, before anything is moved.
        """
        queue, what = token
        position = stands_at(queue, what)
        if position is None or not base <= position < limit:
            return None
        draft = self._written_again(queue, what, position)
        if draft:
            check(draft)
        return draft

    def moved(self, token: Token, position: int, draft: Draft) -> None:
        fold.take(self._replica.state, [position], [draft], [check(draft)])

    def _written_again(self, queue: QueueState, what: Live, position: int) -> Draft | None:
        if what is DECLARATION:
            return records.declare(queue.number, declaration_of(queue))
        if isinstance(what, str):
            return self._dedup(queue, what)
        if isinstance(what, Subscription):
            again = records.Subscribed(what.pattern, what.match, what.bound_at)
            return records.subscribe(queue.number, again)
        if isinstance(what, Entry):
            stored = self._replica.log.read(position)
            return records.schedule(what.schedule, *records.scheduled_body(stored.flags, stored.payload))
        return self._message(queue, what, position)

    def _dedup(self, queue: QueueState, key: str) -> Draft | None:
        seen = queue.dedup.seen(key)
        if seen is None or seen.until <= self._replica.clock.store_ms():
            return None  # its window is over
        return records.dedup(queue.number, seen.id, seen.until, key)

    def _message(self, queue: QueueState, id: int, position: int) -> Draft:
        stored = self._replica.log.read(position)
        flags = stored.flags
        created_ms, published = records.published_of(stored.kind, flags, stored.time_ms, stored.payload)
        said, _ = records.attributes_of(flags, published)
        if several := self._replica.state.board.shared.holders(id):
            holders = [self._holder(number, id, position, said) for number in several]
            return records.relocate_fan_out(id, created_ms, holders, flags, published)
        changes = self._changes(queue, id, position, said)
        return records.relocate(queue.number, id, created_ms, queue.facts(id), flags, published, changes)

    def _holder(self, number: int, id: int, position: int, said: Attributes) -> Holder:
        queue = self._replica.state.queue(number)
        assert queue
        return Holder(number, *queue.facts(id), self._changes(queue, id, position, said))

    def _changes(self, queue: QueueState, id: int, position: int, said: Attributes) -> Changes | None:
        received = first_received(self._replica.log, queue, id, position)
        return changes_in(said, queue.traits(id), received)
