"""The fold: records in, queues out.  Nothing else changes what is true.

    recovery, following, tools   apply(state, stretches)                   what the log holds
    after each commit            take(state, positions, drafts, events)    what was appended just now;
    the cleaner                                                            what was written again
                                        │
                                        ▼
                                 APPLY[kind](state, queue, lsn, flags, event)

Three kinds that nearly all records are have shorter ways to the same methods: publish, receive and
ack (engine) call them with what they have just appended; `_apply_one` does not decode such a record
in full; and plain records in a row are done at once (runs.py).  So are those of a few other kinds
(`IN_A_ROW`).
tests/delivery/test_runs.py compares all of these with the dispatcher, one record at a time.

Records about messages that are gone are ignored, but for the totals: a tombstone may outlive the
message that it is about.  And a queue's messages may come before its declaration, which the cleaner
moved behind them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import groupby, repeat
from typing import Any, Final

from mq.errors import Unsupported

from . import records, runs, schedules
from .attributes import Attributes, Failed, topic_key
from .decode import NotUnderstood, decode
from .dedup import Seen
from .options import Declaration, defines_alike
from .queue import QueueState
from .records import Draft, Event, Fanout, Move, Pairs, Subscribed
from .runs import CHAINED, PUBLISHES, UNCHAINED, Outline, Run, Stretch
from .shares import Shares
from .state import EXCHANGE, State
from .subscription import Subscription
from .traits import PLAIN, Delayed, Flight, Traits, expiring, traits_of, with_failure


def apply(state: State, stretches: Iterable[Stretch]) -> None:
    """Do what the records in *stretches* say, in their order."""
    for stretch in stretches:
        lsns, labels, lengths, buffer, origin, _ = stretch
        if len(labels) < runs.RUN_LEAST:
            pass
        elif number := runs.publisher(distinct := set(labels)):  # a backlog is mostly that
            state.made(number).publish_run(lsns, sum(lengths))
            continue
        elif runs.is_worth_it(labels, distinct):
            _apply_runs(state, stretch)
            continue
        elif any(label & 0xFF in IN_A_ROW for label in distinct):
            _apply_in_a_row(state, stretch)
            continue
        for lsn, label, length in zip(lsns, labels, lengths, strict=True):
            _apply_one(state, lsn, label, length, buffer, lsn - origin)


def take(
    state: State, positions: Iterable[int], drafts: Iterable[Draft], events: Iterable[Event]
) -> None:  # fmt: skip
    """Do what *drafts* say, which stand at *positions* now; *events*: as they were decoded."""
    for (kind, flags, number), alike in groupby(zip(positions, drafts, events, strict=True), _alike):
        part = list(alike)
        if kind in IN_A_ROW and len(part) > 1:
            IN_A_ROW[kind](state, state.made(number), 0, flags, [event for _, _, event in part])
            continue
        for lsn, _, event in part:
            APPLY[kind](state, state.made(number), lsn, flags, event)


def _alike(taken: tuple[int, Draft, Event]) -> tuple[int, int, int]:
    """What those have in common that may be done together."""
    return taken[1][:3]


def _apply_in_a_row(state: State, stretch: Stretch) -> None:
    """`apply` for records some of which are done at once, if they are of one kind and queue, and in a row."""
    lsns, labels, lengths, buffer, origin, _ = stretch
    for label, part in groupby(zip(lsns, labels, lengths, strict=True), _unchained):
        kind, flags, number = label & 0xFF, label >> 8 & 0xFF, label >> 16
        if kind in IN_A_ROW:
            events = [_decoded(lsn, kind, flags, buffer, lsn - origin, length) for lsn, _, length in part]
            IN_A_ROW[kind](state, state.made(number), 0, flags, events)
            continue
        for lsn, label, length in part:
            _apply_one(state, lsn, label, length, buffer, lsn - origin)


def _unchained(outline: Outline) -> int:
    """The label, without the flag that chains records."""
    return outline[1] & ~CHAINED


def _apply_runs(state: State, stretch: Stretch) -> None:
    """The same for records of which nearly all are plain: those in a row at once."""
    lsns, labels, lengths, buffer, origin, _ = stretch
    outlines = zip(lsns, labels, lengths, strict=True)
    begin = 0
    while begin < len(lsns):
        by_queue: dict[int, Run] = {}
        other = runs.gather(outlines, buffer, origin, by_queue)
        behind = len(lsns) if other is None else bisect_left(lsns, other[0], begin)
        for number, run in by_queue.items():
            if not state.made(number).do_run(run):
                for at in range(begin, behind):
                    if labels[at] >> 16 == number and labels[at] & UNCHAINED not in PUBLISHES:
                        _apply_one(state, lsns[at], labels[at], lengths[at], buffer, lsns[at] - origin)
        if other:
            _apply_one(state, *other, buffer, other[0] - origin)
        begin = behind + 1


def _apply_one(state: State, lsn: int, label: int, length: int, buffer: Any, start: int) -> None:
    """Do what the record at *lsn* says, whose payload begins at buffer[start]."""
    kind, flags, number = label & 0xFF, label >> 8 & 0xFF, label >> 16
    queue = state.queues.get(number) or state.made(number)
    if kind == records.PUBLISH and flags in records.PLAIN_FLAGS:
        queue.publish(lsn, length)
    elif kind == records.DELIVER and length == 16 and not flags & records.UNKNOWN_TO_DELIVER:
        id, deadline = records.DELIVER_PAYLOAD.unpack_from(buffer, start)
        queue.deliver(id, lsn, deadline, flags)
    elif kind == records.ACK and length == 12 and not flags & records.UNKNOWN:
        queue.ack(*records.ACK_PAYLOAD.unpack_from(buffer, start))
    else:
        event = _decoded(lsn, kind, flags, buffer, start, length)
        APPLY[kind](state, queue, lsn, flags, event)


def _decoded(lsn: int, kind: int, flags: int, buffer: Any, start: int, length: int) -> Event:
    try:
        return decode(kind, flags, buffer, start, start + length)
    except NotUnderstood as error:
        raise Unsupported(
            f"the log at position {lsn}: {error}; upgrade mq or, if an older mq wrote it by"
            " mistake, let `mq repair` leave it out"
        ) from None


# ── what each kind does ────────────────────────────────────────────────────────────


def _declare(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Declaration]) -> None:
    before = queue.name
    # The cleaner writes a declaration again, with the totals so far: that changes no definition.
    if (queue.declared_at < 0 or not defines_alike(event[0], queue.options)) and queue.number != EXCHANGE:
        state.generation = lsn
    queue.declare(event[0], lsn)
    state.bind(queue, before)
    if event[0].was:
        state.rename(event[0].was, queue.name, lsn)


def _publish(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.publish_with(lsn, *event)


def _deliver(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    ids, deadline = event
    queue.deliver_run(ids, lsn, deadline, flags)


def _ack(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.ack_run(*event)


def _nack_all(state: State, queue: QueueState, lsn: int, flags: int, events: list[Event]) -> None:
    queue.nack_run(events)


def _release_all(state: State, queue: QueueState, lsn: int, flags: int, events: list[Event]) -> None:
    queue.release_run([id for (id,) in events])


def _extend_all(state: State, queue: QueueState, lsn: int, flags: int, events: list[Event]) -> None:
    ids, deadlines = zip(*events, strict=True)
    queue.extend_run(ids, deadlines)


def _move_all(state: State, queue: QueueState, lsn: int, flags: int, events: list[Event]) -> None:
    _move(state, queue, lsn, flags, [move for (move,) in events])


def _nack(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.nack(*event)


def _release(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.release(*event)


def _extend(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.extend(*event)


def _purge(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.purge(*event)


def _relocate(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    id, _created, *rest = event
    if not id:  # a copy
        queue.totals.published += 1
        said: Attributes = rest[5]
        if said.dedup_id is not None and said.topic is None:  # else a topic remembers it
            queue.note_dedup(said.dedup_id, lsn, said.dedup_until)
    queue.relocate(id or lsn, lsn, *rest)
    for number in state.board.shared.holders(id):
        state.made(number).has_moved(id, lsn)


def _fan_out(state: State, queue: QueueState, lsn: int, flags: int, event: Fanout) -> None:
    """*queue*: the exchange."""
    queues, times, retained, size, attributes = event
    queue.totals.published += 1
    queue.totals.dropped += not event.holders
    if attributes.dedup_id is not None:
        assert attributes.topic is not None
        queue.note_dedup(topic_key(attributes.topic, attributes.dedup_id), lsn, attributes.dedup_until)
    if queue.unchanged:
        queue.mark_changed()
    state.board.shared.put(lsn, size, event.holders)
    if retained:
        state.made(retained).retain(lsn, size)
    traits = traits_of(attributes)
    alike = repeat((attributes.due, attributes.expires))
    for number, (due, expires) in zip(queues, times or alike, strict=False):
        target = state.made(number)
        if traits is PLAIN and not due and not expires:
            target.publish(lsn, size)
        elif expires == traits.expires:
            target.take_in(lsn, size, due, traits)
        else:
            target.take_in(lsn, size, due, expiring(traits, expires))


def _relocate_fan_out(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    id, _created, size, holders, attributes = event
    shared = state.board.shared
    known = set(shared.holders(id))  # more than the record says, if one was lost that let go of it
    for number, attempts, place, receipt, when, changes in holders:
        queue = state.made(number)
        queue.relocate(id, lsn, size, attempts, place, receipt, when, attributes, changes)
        known.discard(number)
    for number in known:
        state.made(number).has_moved(id, lsn)
    shared.put(id, size, known.union(holder.queue for holder in holders))


def _subscribe(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Subscribed]) -> None:
    pattern, match, bound_at = event[0].pattern, event[0].match, event[0].bound_at
    known = queue.subscriptions.get(pattern)
    if known is None or known.match != match:
        state.generation = lsn
    queue.subscribe(Subscription(pattern, match, bound_at or lsn, lsn))
    state.routes.bind(queue.number, pattern, match)


def _unsubscribe(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[str]) -> None:
    state.generation = lsn
    queue.unsubscribe(event[0])
    state.routes.unbind(queue.number, event[0])


def _backfill(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    """Messages that a topic retains wait in this queue as well."""
    number, ids, sizes, attributes = event
    queue.totals.published += len(ids)
    topic = state.queue(number)
    if topic is None:
        return
    here, positions = topic.waiting.part(ids[0], len(ids))
    if here.tolist() != list(ids) or not queue.holds_none(ids):  # as a rule it is like that
        known = [(id, topic.position(id), size) for id, size in zip(ids, sizes, strict=True)]
        coming = [each for each in known if each[1] is not None and each[0] not in queue]
        if not coming:
            return
        ids, places, sizes = zip(*coming, strict=True)
        positions = array("Q", places)
    state.board.shared.add_holder(ids, sizes, number, queue.number)
    state.note_moves(queue.number, ids)
    queue.join_in(ids, positions, sum(sizes), attributes.due, traits_of(attributes))


def _move(state: State, queue: QueueState, lsn: int, flags: int, event: Iterable[Move]) -> None:
    """To the dead letters, with what happened to it; or back, as if it had never been tried; or as it is.

    *event*: what one record says, or several in a row.
    """
    for to, moves in groupby(event, _to):
        _move_to(state, queue, to, moves, flags)


def _to(move: Move) -> int:
    return move.to


def _move_to(state: State, queue: QueueState, to: int, moves: Iterable[Move], flags: int) -> None:
    target, shared = state.queue(to), state.board.shared
    arriving: dict[int, Delayed] = {}
    count = size = 0
    last, traits = None, PLAIN
    for move in moves:
        count += 1
        if target:  # also if the message is gone: then all the totals are of what came in, and went
            target.totals.published += 1
        taken = queue.take(move.id)
        if taken is None:
            continue
        target = target or state.made(to)
        if shared.extra_bytes and not _carry(shared, queue, target, move.id):
            queue.bytes -= move.size
            continue
        state.note_move(to, move.id)
        size += move.size
        if flags & records.WHOLE:
            arriving[move.id] = _as_it_is(taken)
            continue
        # Of those that die together most do so at one time, for one reason: they share what is kept of it.
        alike = taken.traits, taken.attempts, move.at, move.expires, move.origin, move.reason
        if alike != last:
            last, traits = alike, _moved(taken, move, flags)
        arriving[move.id] = Delayed(0, 0, taken.position, traits)
    queue.bytes -= size
    totals = queue.totals
    totals.dead_lettered += count * bool(flags & records.DIED)
    totals.failed += count * bool(flags & records.FAILED)
    totals.expirations += count * bool(flags & records.EXPIRED)
    if target and arriving:
        target.arrive(arriving, size)


def _carry(shared: Shares, queue: QueueState, target: QueueState, id: int) -> bool:
    """The share of a message goes where the message goes; False if that queue holds it already."""
    if target.number in shared.holders(id):
        shared.let_go(id, queue.number)
        return False
    shared.carry(id, queue.number, target.number)
    return True


def _as_it_is(taken: Flight | Delayed) -> Delayed:
    return taken if isinstance(taken, Delayed) else Delayed(0, taken.attempts, taken.position, taken.traits)


def _moved(taken: Flight | Delayed, move: Move, flags: int) -> Traits:
    before = taken.traits
    if not flags & records.DIED:
        return Traits(before.priority, before.group, move.expires)
    traits = Traits(before.priority, before.group, move.expires, move.origin, before.failures)
    return with_failure(traits, Failed(move.at, taken.attempts, move.reason))


def _drop(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Pairs]) -> None:
    for id, size in event[0]:
        queue.totals.dead_lettered += bool(flags & records.DIED)
        queue.totals.failed += bool(flags & records.FAILED)
        queue.totals.expirations += bool(flags & records.EXPIRED)
        queue.totals.dropped += bool(flags & records.OVERFLOWED)
        queue.drop(id, size)


def _reschedule(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.reschedule(*event)


def _delete(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    state.generation = lsn
    state.delete(queue)


def _dedup(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    id, until, key = event
    queue.remember(key, Seen(id, until, lsn))


def _renew(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.renew(*event)


def _schedule(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    schedule, size = event
    known = state.calendar.get(schedule.name)
    # The cleaner writes a schedule again, with its times by now: that changes no definition.
    if known is None or not schedules.define_alike(known.schedule, schedule):
        state.generation = lsn
    state.calendar.put(schedule, lsn, size)


def _tick(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    state.calendar.move_on(*event)


def _unschedule(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[str]) -> None:
    state.generation = lsn
    state.calendar.remove(event[0])


Apply = Callable[[State, QueueState, int, int, Any], None]  # the last three: position, flags, event

APPLY: Final[dict[int, Apply]] = {
    records.DECLARE: _declare,
    records.PUBLISH: _publish,
    records.DELIVER: _deliver,
    records.ACK: _ack,
    records.NACK: _nack,
    records.RELEASE: _release,
    records.EXTEND: _extend,
    records.PURGE: _purge,
    records.RELOCATE: _relocate,
    records.MOVE: _move,
    records.DROP: _drop,
    records.RESCHEDULE: _reschedule,
    records.DELETE: _delete,
    records.DEDUP: _dedup,
    records.RENEW: _renew,
    records.FANOUT: _fan_out,
    records.RELOCATE_FANOUT: _relocate_fan_out,
    records.SUBSCRIBE: _subscribe,
    records.UNSUBSCRIBE: _unsubscribe,
    records.BACKFILL: _backfill,
    records.SCHEDULE: _schedule,
    records.TICK: _tick,
    records.UNSCHEDULE: _unschedule,
}

# Kinds of which records in a row, about one queue, are done at once; the last argument: all events.
IN_A_ROW: Final[dict[int, Apply]] = {
    records.NACK: _nack_all,
    records.RELEASE: _release_all,
    records.EXTEND: _extend_all,
    records.MOVE: _move_all,
}
