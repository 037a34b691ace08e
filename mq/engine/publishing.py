"""Publishing that is more than a body to a queue that is there: attributes, limits, several at once.

The plain case is flat in queue.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mq.delivery.intake import NewMessage, admit
from mq.delivery.plan import Plan
from mq.delivery.records import PUBLISH
from mq.engine.channel import Channel, Channels
from mq.engine.operation import operation
from mq.engine.store import Store
from mq.engine.waiting import Sleeper
from mq.errors import DiskFull, QueueFull


@operation
def publish_plain(
    store: Store, channel: Channel, flags: list[int], bodies: list[bytes]
) -> list[int] | None:  # fmt: skip
    """Store all of *bodies*, which come without options, or none; None if the queue wants to look at each.

    *flags* say how each was given.

    Not decoded first, as a plan is: see the head of queue.py.
    """
    with store.turn.mutex:
        try:
            store.turn.enter()
            ms = store.clock.store_ms()
            if ms >= store.state.board.next:
                store.do_due()
            state = channel.state
            if state is None or state.publish_needs_plan:
                return None
            count = len(bodies)
            ids = store.log.append_columns(ms, [PUBLISH] * count, flags, [state.number] * count, bodies)
            state.publish_run(ids, sum(map(len, bodies)))
            end = store.applied = store.log.end
            channel.wake(len(ids))
        except DiskFull:
            return None  # `publish` makes way, perhaps
        finally:
            store.turn.leave()
    store.settle(end)
    return ids


def publish(
    store: Store, messages: Sequence[NewMessage], until: float | None = None, *,
    before: Callable[[Plan], None] | None = None,
) -> list[int]:  # fmt: skip
    """Store all of *messages* in one atomic group, or none; the messages' ids.

    Waits for room until then, monotonic seconds; then QueueFull.  *before* adds to the plan
    what is to happen with them.
    """
    channels = [store.channel(name) for name in dict.fromkeys(message.queue for message in messages)]
    try:
        return _publish(store, channels, messages, until, before)
    except DiskFull:
        _make_way(store)
    return _publish(store, channels, messages, until, before)


@operation
def _make_way(store: Store) -> None:
    store.maintenance.make_way()


@operation
def _publish(
    store: Store, channels: Sequence[Channel], messages: Sequence[NewMessage], until: float | None,
    before: Callable[[Plan], None] | None,
) -> list[int]:  # fmt: skip
    sleeper: Sleeper | None = None

    def admit_or_wait() -> tuple[list[int], list[int], int] | None:
        """Where each message is, the positions of what is stored, the log's end; None: no room yet."""
        nonlocal sleeper
        if sleeper:
            sleeper.end()
        plan = store.plan()
        if plan.now.store >= store.state.board.next:
            store.do_due()
            plan = store.plan()
        if before:
            before(plan)
        try:
            places = admit(plan, messages)
        except QueueFull:
            if until is None:
                raise
            sleeper = sleeper or Sleeper(store.waiters, Channels(channels), for_room=True)
            if not sleeper.prepare(plan.now, until):
                raise
            return None
        return places, store.commit(plan) if plan.drafts else [], store.log.end

    try:
        while (stored := store.turn.take(admit_or_wait)) is None:
            assert sleeper
            sleeper.sleep()
    except BaseException:
        if sleeper:
            sleeper.give_up()
        raise
    places, positions, end = stored
    # Also if nothing was stored: what was there already may not be on the disk yet.
    if messages:
        store.settle(end)
    return [positions[place] if place >= 0 else -1 - place for place in places]
