"""All that is a plan: decided, decoded as recovery would, appended in one write, applied.

    publish, transact        with attributes, into limits, several at once, with what a transaction settles
    cancel, reschedule       one message that waits
    purge, drop, replay      many, in slices, so that no neighbour waits
    declare, update_meta, rename, delete, pause, resume     the queue

Deliveries are settled in settling.py.  The plain publish, receive and ack make no plan: see hot.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from threading import get_ident
from typing import Any

from msgspec.structs import replace

from mq.delivery import dead, meta, records, renaming, settle
from mq.delivery.intake import NewMessage, admit
from mq.delivery.now import Now
from mq.delivery.plan import Plan
from mq.delivery.purge import IsMeant, Purge
from mq.delivery.queue import QueueState
from mq.delivery.under_way import refuse_moving, refuse_under_way
from mq.engine import looking
from mq.engine.channel import Channel, Channels
from mq.engine.log import Conflict
from mq.engine.looking import Letter
from mq.engine.operation import operation
from mq.engine.settling import Claim, Do, mark_settled, plan_all
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.engine.waiting import Sleeper
from mq.errors import DiskFull, MqError, QueueFull, StaleReceipt, UsageError

Agreed = Callable[[int, int, int, int], bool]  # where it is declared; how many are ready, in flight, delayed
To = Channel | Sequence[Channel | None] | None
Decide = Callable[[Plan, QueueState, Callable[[], bool]], int]  # the last: whether the slice's time is over


# ── publishing ─────────────────────────────────────────────────────────────────────


def publish(
    store: Store, messages: Sequence[NewMessage], until: float | None = None, *,
    before: Callable[[Plan], None] | None = None, to: To = None, makes: bool = True,
) -> list[int]:  # fmt: skip
    """Store all of *messages* in one atomic group, or none; the messages' ids.

    Waits for room until then, monotonic seconds; then QueueFull.  *before* adds to the plan
    what is to happen with them.  *to*: the queue of all of them, or that of each, None where it
    has none: a queue may be renamed meanwhile.  Unless *makes*, NoQueue if the queue of all is not there.
    """
    if isinstance(to, Channel) and not makes:
        before = partial(_require_there, to)
    try:
        return _publish(store, messages, until, before, to)
    except DiskFull:
        if get_ident() in store.owing:  # an event loop's thread does not wait for the cleaner
            raise
        _make_way(store)
    return _publish(store, messages, until, before, to)


@operation
def _make_way(store: Store) -> None:
    store.maintenance.make_way()


@operation
def _publish(
    store: Store, messages: Sequence[NewMessage], until: float | None,
    before: Callable[[Plan], None] | None, to: To,
) -> list[int]:  # fmt: skip
    sleeper: Sleeper | None = None

    def admit_or_wait() -> tuple[list[int], list[int], int] | None:
        """Where each message is, the positions of what is stored, the log's end; None: no room yet."""
        nonlocal sleeper, messages
        if isinstance(to, Channel):
            if messages[0].queue != to.name:
                messages = [replace(each, queue=to.name) for each in messages]
        elif to:
            messages = list(map(_addressed, messages, to))
        if sleeper:
            sleeper.end()
        plan = store.committer.plan()
        if plan.now.store >= store.replica.state.board.next:
            store.committer.do_due()
            plan = store.committer.plan()
        if before:
            before(plan)
        try:
            places = admit(plan, messages)
        except QueueFull:
            if until is None:
                raise
            channels = Channels(map(store.waiters.channel, _names(store, messages)))
            sleeper = Sleeper(store.waiters, channels, for_room=True)
            if not sleeper.prepare(plan.now, until):
                raise
            return None
        return places, store.committer.commit(plan) if plan.drafts else [], store.replica.log.end

    def until_stored() -> tuple[list[int], list[int], int]:
        while (stored := store.turn.take(admit_or_wait)) is None:
            assert sleeper
            sleeper.sleep()
        return stored

    try:
        places, positions, end = until_stored()
    except BaseException:
        if sleeper:
            sleeper.give_up()
        raise
    # Also if nothing was stored: what was there already may not be on the disk yet.
    if messages:
        store.finish_publish(end)
    return [positions[place] if place >= 0 else -1 - place for place in places]


def _addressed(message: NewMessage, to: Channel | None) -> NewMessage:
    """*message*, with the name that its queue has now; in a turn."""
    return message if to is None or message.queue == to.name else replace(message, queue=to.name)


def _names(store: Store, messages: Sequence[NewMessage]) -> set[str]:
    """Of the queues that *messages* go to; in a turn."""
    state = store.replica.state
    routed = [state.routes.route(each.topic, each.headers) for each in messages if each.topic]
    names = {state.name(number) for number in chain.from_iterable(routed)}
    return names.union(each.queue for each in messages if not each.topic)


def transact(
    store: Store, messages: Sequence[NewMessage], to: Sequence[Channel | None],
    settling: Sequence[tuple[Claim, Do]], until: float,
) -> list[int]:  # fmt: skip
    """Settle deliveries and store *messages*, all or nothing; the messages' ids.  *to*: as for `publish`.

    StaleReceipt if one of the deliveries is not in force.
    """

    def settle_first(plan: Plan) -> None:
        _, stale = plan_all(plan, settling, lambda: False)
        if stale:
            raise StaleReceipt(tuple(stale))

    ids = publish(store, messages, until, before=settle_first, to=to)
    mark_settled(claim for claim, _ in settling)
    return ids


# ── what waits in a queue ──────────────────────────────────────────────────────────


def cancel(store: Store, channel: Channel, id: int) -> bool:
    """Drop a message that waits or is delayed; False if it is in flight, or not here."""

    def decide(plan: Plan, queue: QueueState, _: object) -> int:
        refuse_moving(plan.state, queue.name)
        if not queue.waits(id, plan.now):
            return 0
        plan.add(*records.drop(queue.number, 0, [(id, plan.size_of(queue, id))]))
        return 1

    return change(store, channel, decide) > 0


def reschedule(store: Store, channel: Channel, id: int, delay_ms: int, due: int) -> bool:
    """A message that waits or is delayed is ready in *delay_ms*, or at *due*; False as for `cancel`."""

    def decide(plan: Plan, queue: QueueState, _: object) -> int:
        refuse_moving(plan.state, queue.name)
        if not queue.waits(id, plan.now):
            return 0
        when = due or (plan.now.wall + delay_ms if delay_ms else 0)
        if id in queue.flights:  # its delivery has timed out, and no process has noticed
            settle.give_up(plan, queue, id, when)
        else:
            plan.add(*records.reschedule(queue.number, id, when))
        return 1

    return change(store, channel, decide) > 0


class NoQueue(UsageError):
    """Nothing was done: the queue is not there, and was not to be made."""


def _require_there(channel: Channel, _: object = None) -> None:
    """In a turn."""
    if channel.state is None:
        raise NoQueue(f"there is no queue {channel.name!r} any more: it was deleted")


class NotAgreed(MqError):
    """Nothing was done: the queue is not what was agreed to."""


def purge(store: Store, channel: Channel, *, in_flight: bool, agreed: Agreed | None = None) -> int:
    """Drop all that waits or is delayed, or is *in_flight*; how many.  Does not wait for the disk.

    NotAgreed if *agreed* says no: it is asked in the turn in which the first ones go.
    """
    purge = Purge(in_flight=in_flight)

    def decide(plan: Plan, queue: QueueState, is_late: Callable[[], bool]) -> int:
        if not purge.more:
            _require_agreed(queue, plan.now, agreed)
        return purge.plan(plan, queue, is_late)

    return change(store, channel, decide, lambda: purge.more, purge.again, waits=False)


def _require_agreed(queue: QueueState, now: Now, agreed: Agreed | None) -> None:
    if agreed and not agreed(queue.declared_at, *queue.counts(now)):
        raise NotAgreed(f"queue {queue.name!r} is not what it was: nothing was done")


def drop(store: Store, channel: Channel, ids: Sequence[int], is_meant: Callable[[Letter], bool]) -> int:
    """Drop those of *ids* that are not in flight, and of which *is_meant* says so; how many.

    It is asked in the turn in which the message goes: nothing happens to it in between.  Does not wait
    for the disk.
    """
    purge = Purge(ids=ids, is_meant=_judged_in_turn(store, is_meant))
    return change(store, channel, purge.plan, lambda: purge.more, purge.again, waits=False)


def replay(
    store: Store, channel: Channel, ids: list[int] | None, to: str | None,
    is_meant: Callable[[Letter], bool] | None = None,
) -> int:  # fmt: skip
    """Move dead letters to where they died, or to the queue *to*; how many.

    *is_meant*: only those of which it says so, as in `drop`.
    """
    replay = dead.Replay(ids, to, is_meant and _judged_in_turn(store, is_meant))
    return change(store, channel, replay.plan, lambda: replay.more, replay.again)


def _judged_in_turn(store: Store, is_meant: Callable[[Letter], bool]) -> IsMeant:
    def judge(queue: QueueState, id: int, now: Now) -> bool:
        return is_meant(looking.letter(queue, id, now, looking.skew_ms(store)))

    return judge


# ── the queue ──────────────────────────────────────────────────────────────────────


@operation
def declare(store: Store, channel: Channel, changes: dict[str, Any], *, makes: bool = True) -> None:
    """Change the options named, for every process; nothing is written if they are so already.

    Unless it *makes* the queue, NoQueue if that is not there.
    """
    if not store.turn.look(partial(_is_declared, store, channel, changes)):
        store.finish_publish(store.turn.take(partial(_declare, store, channel, changes, makes)))


def _is_declared(store: Store, channel: Channel, changes: dict[str, Any]) -> bool:
    if (state := channel.state) is None or state.is_to_go(store.clock.now()):
        return False
    return all(getattr(state.options, name) == value for name, value in changes.items())


def _declare(store: Store, channel: Channel, changes: dict[str, Any], makes: bool) -> int:
    """Where the log ends then."""
    replica, committer = store.replica, store.committer
    if not makes:
        _require_there(channel)
    if changes.get("paused") is False:
        refuse_moving(replica.state, channel.name)
    dead.check_dead_letters(replica.state, channel.name, changes)
    plan = plan_without_what_goes(store, channel.state)
    plan.declare(channel.name, changes)
    committer.commit(plan)
    return replica.log.end


def plan_without_what_goes(store: Store, state: QueueState | None) -> Plan:
    """A plan.  A queue that is to go, and is still there, is deleted first: what is declared is a new one."""
    committer = store.committer
    plan = committer.plan()
    if state and state.is_to_go(plan.now):
        plan.add(*records.delete(state.number))
        committer.commit(plan)
        plan = committer.plan()
    return plan


@operation
def update_meta(
    store: Store, channel: Channel, changes: meta.Changes, expect: meta.Changes, *, makes: bool = True
) -> bool:  # fmt: skip
    """Change the texts named, if all that is expected is so; whether it was.  *makes*: as in `declare`."""
    end = store.turn.take(partial(_update_meta, store, channel, changes, expect, makes))
    if end is None:
        return False
    store.finish_publish(end)  # also if it was so already: another caller may still wait for the disk
    return True


def _update_meta(
    store: Store, channel: Channel, changes: meta.Changes, expect: meta.Changes, makes: bool
) -> int | None:  # fmt: skip
    """Where the log ends then; None if something is not as expected."""
    if not makes:
        _require_there(channel)
    plan = plan_without_what_goes(store, channel.state)
    before = channel.state.options.meta if channel.state else {}
    if not meta.is_so(before, expect):
        return None
    after = meta.changed(before, changes)
    if after != before:
        if (size := meta.size(after)) > meta.META_BYTES_MAX:
            raise UsageError(
                f"the meta of queue {channel.name!r} would have {size:,} bytes; {meta.META_BYTES_MAX:,} is"
                " the most: nothing was changed; keep the data elsewhere, and here where it is"
            )
        plan.declare(channel.name, {"meta": after})
        store.committer.commit(plan)
    return store.replica.log.end


@operation
def rename(store: Store, channel: Channel, new: str) -> None:
    """The queue is called *new* from now on, in every process."""
    store.finish_publish(store.turn.take(partial(_rename, store, channel, new)))


def _rename(store: Store, channel: Channel, new: str) -> int:
    """Where the log ends then."""
    plan = plan_without_what_goes(store, channel.state)
    renaming.rename(plan, channel.name, new)
    store.committer.commit(plan)
    return store.replica.log.end


def pause(store: Store, channel: Channel, *, makes: bool = True) -> None:
    declare(store, channel, {"paused": True}, makes=makes)


def resume(store: Store, channel: Channel) -> None:
    """Deliver again.  UsageError if it is the queue of a move to another store."""
    if looking.stats(store, channel).paused:
        with suppress(NoQueue):  # it was deleted since
            declare(store, channel, {"paused": False}, makes=False)


def delete(store: Store, channel: Channel, agreed: Agreed | None = None) -> None:
    """The queue goes, with all it holds.

    UsageError if a move to another store has messages of it under way.  *agreed*: as in `purge`.
    """

    def decide(plan: Plan, queue: QueueState, _: object) -> int:
        refuse_under_way(plan.state, queue.name)
        _require_agreed(queue, plan.now, agreed)
        plan.add(*records.delete(queue.number))
        return 1

    change(store, channel, decide)


def _no_more() -> bool:
    return False


def _nothing() -> None:
    pass


@operation
def change(
    store: Store, channel: Channel, decide: Decide, more: Callable[[], bool] = _no_more,
    again: Callable[[], None] = _nothing, *, waits: bool = True,
) -> int:  # fmt: skip
    """Do what *decide* plans for a queue, if it is there, in slices while there is *more*; the sum.

    *again* is called if a slice was not appended, before it is decided again.  If it *waits*, under
    sync="always" it is on the disk then.
    """
    result = end = 0

    def change() -> int | None:
        nonlocal end
        if store.clock.store_ms() >= store.replica.state.board.next:
            store.committer.do_due()
        queue, plan = channel.state, store.committer.plan()
        if queue is None:
            return None
        queue.advance(plan.now)
        count = decide(plan, queue, store.committer.slice(plan))
        if plan.drafts:
            try:
                store.committer.commit(plan)
            except Conflict:
                again()
                raise
        end = store.replica.log.end
        return count

    while not end or more():
        if end:
            give_way(store)
        count = store.turn.take(change)
        if count is None:
            return result
        result += count
    if waits:
        store.finish_publish(end)
    return result
