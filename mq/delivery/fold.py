"""The fold: records in, queues out.  Nothing else changes what is true.

    recovery, following, tools   apply(state, stretches)                   what the log holds
    after each commit            take(state, positions, drafts, events)    what was appended just now;
    the cleaner                                                            what was written again
                                        │
                                        ▼
                                 APPLY[kind](state, queue, lsn, flags, event)

Three kinds that nearly all records are have shorter ways to the same methods: publish, receive and
ack (engine) call them with what they have just appended; `_apply_one` does not decode such a record
in full; and plain records in a row are done at once (runs.py).  tests/delivery/test_runs.py compares
all of them with the dispatcher.

Records about messages that are gone are ignored, but for the totals: a tombstone may outlive the
message that it is about.  And a queue's messages may come before its declaration, which the cleaner
moved behind them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any, Final

from mq.errors import Unsupported

from . import records, runs
from .attributes import Failed
from .decode import NotUnderstood, decode
from .dedup import Seen
from .options import Declaration
from .queue import QueueState, Taken
from .records import Draft, Event, Move, Pairs
from .runs import PUBLISHES, UNCHAINED, Run, Stretch
from .state import State
from .traits import Traits, with_failure


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
        for lsn, label, length in zip(lsns, labels, lengths, strict=True):
            _apply_one(state, lsn, label, length, buffer, lsn - origin)


def take(
    state: State, positions: Iterable[int], drafts: Iterable[Draft], events: Iterable[Event]
) -> None:  # fmt: skip
    """Do what *drafts* say, which stand at *positions* now; *events*: as they were decoded."""
    for lsn, (kind, flags, number, _), event in zip(positions, drafts, events, strict=True):
        APPLY[kind](state, state.made(number), lsn, flags, event)


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
        try:
            event = decode(kind, flags, buffer, start, start + length)
        except NotUnderstood as error:
            raise Unsupported(
                f"the log at position {lsn}: {error}; upgrade mq or, if an older mq wrote it by"
                " mistake, let `mq repair` leave it out"
            ) from None
        APPLY[kind](state, queue, lsn, flags, event)


# ── what each kind does ────────────────────────────────────────────────────────────


def _declare(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Declaration]) -> None:
    before = queue.name
    queue.declare(event[0], lsn)
    state.bind(queue, before)


def _publish(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.publish_with(lsn, *event)


def _deliver(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    ids, deadline = event
    queue.deliver_run(ids, lsn, deadline, flags)


def _ack(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.ack_run(*event)


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
    queue.relocate(id, lsn, *rest)


def _move(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Move]) -> None:
    """To the dead letters, with what happened to it; or back, as if it had never been tried."""
    (move,) = event
    died = bool(flags & records.DIED)
    queue.dead_lettered += died
    queue.failed += bool(flags & records.FAILED)
    queue.expirations += bool(flags & records.EXPIRED)
    target = state.queue(move.to)
    if target:  # also if the message is gone: then all the totals are of what came in, and went
        target.published += 1
    taken = queue.take(move.id)
    if taken is None:
        return
    queue.bytes -= move.size
    state.note_move(move.to, move.id)
    before = taken.traits
    if died:
        traits = Traits(before.priority, before.group, move.expires, move.origin, before.failures)
        traits = with_failure(traits, Failed(move.at, taken.attempts, move.reason))
    else:
        traits = Traits(before.priority, before.group, move.expires)
    state.made(move.to).arrive(move.id, move.size, Taken(0, taken.position, traits))


def _drop(state: State, queue: QueueState, lsn: int, flags: int, event: tuple[Pairs]) -> None:
    for id, size in event[0]:
        queue.expirations += bool(flags & records.EXPIRED)
        queue.dropped += bool(flags & records.OVERFLOWED)
        queue.drop(id, size)


def _reschedule(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.reschedule(*event)


def _delete(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    state.delete(queue)


def _dedup(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    id, until, key = event
    queue.remember(key, Seen(id, until, lsn))


def _renew(state: State, queue: QueueState, lsn: int, flags: int, event: Event) -> None:
    queue.renew(*event)


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
}
