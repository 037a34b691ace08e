"""Of what each segment of the log consists: how much of it is live, about, for those who look at the store.

    ┌────────────┬────────────┬────────────┬──────┄┄┄┄┄┄┐
    │▒▒▒▒▒░░░░░░░│▒▒▒▒▒▒▒▒▒░░░│▒▒▒▒▒▒▒▒▒▒▒▒│▒▒▒▒▒░       │      ▒ live   ░ garbage
    └────────────┴────────────┴────────────┴──────┄┄┄┄┄┄┘

Counted in slices, between which others come in, so the numbers are not of one moment.  Of the messages in a
segment a few are measured, and the others taken to be like them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from mq.delivery.queue import QueueState
from mq.engine import looking
from mq.engine.commit import SLICE_SECONDS
from mq.engine.operation import operation
from mq.engine.sizes import size_of
from mq.engine.slices import give_way
from mq.engine.store import Store
from mq.storage.record import HEADER_BYTES
from mq.storage.segment import Segment

MEASURED_MAX: Final = 64  # messages of a segment, in one queue


class Occupancy(NamedTuple):
    """One segment; sizes in bytes."""

    base: int
    capacity: int
    used: int
    live: int  # about
    messages: int
    made_ms: int  # wall time


class LogShape(NamedTuple):
    """The log, and up to where it has been checkpointed."""

    head: int
    end: int
    checkpoint: int  # 0: there is none yet
    segments: list[Occupancy]
    left_out: int  # segments between the first and the last ones of `segments`


def shape(store: Store, segments_max: int) -> LogShape:
    """The oldest and the newest segments, at most *segments_max* of them."""
    looking.stats_of(store, looking.names(store, "", "", None))  # which loads all queues, in slices
    return _shape(store, segments_max)


@operation
def _shape(store: Store, segments_max: int) -> LogShape:
    head, end, checkpoint, segments = store.turn.look(partial(_outline, store))
    half = segments_max // 2
    left_out = max(0, len(segments) - 2 * half)
    drawn = segments[:half] + segments[-half:] if left_out else segments
    return LogShape(head, end, checkpoint, [_occupancy(store, each) for each in drawn], left_out)


def _outline(store: Store) -> tuple[int, int, int, list[Segment]]:
    log = store.replica.log
    return log.head, log.end, store.replica.checkpoint_at, list(log.segments)


def _occupancy(store: Store, segment: Segment) -> Occupancy:
    used, numbers = store.turn.look(partial(_begin, store, segment))
    messages = live = at = 0
    while at < len(numbers):
        give_way(store)
        at, count, size = store.turn.look(partial(_count_some, store, segment, numbers, at))
        messages, live = messages + count, live + size
    return Occupancy(segment.base, segment.capacity, used, min(live, used), messages, segment.wall_ms)


def _begin(store: Store, segment: Segment) -> tuple[int, list[int]]:
    queues = store.replica.state.queues
    used = min(store.replica.log.used(segment), segment.capacity)
    return used, [number for number, queue in queues.items() if queue.total()]


def _count_some(store: Store, segment: Segment, numbers: list[int], at: int) -> tuple[int, int, int]:
    """The messages in the queues *numbers*, from index *at* on, for as long as others may wait.

    Returns the index of the next queue, how many messages live in the segment, and their size.
    """
    is_late = store.clock.timer(SLICE_SECONDS)
    count = size = 0
    while at < len(numbers):
        queue = store.replica.state.queues.get(numbers[at])
        at += 1
        if queue is not None:
            here = list(_positions(queue, segment.base, segment.limit))
            count += len(here)
            size += _size(store, here)
        if is_late():
            break
    return at, count, size


def _positions(queue: QueueState, base: int, limit: int) -> Iterator[int]:
    for lane in [queue.waiting, *queue.lanes.values()]:
        for part in lane.positions_within(base, limit):
            yield from part
    for known in (queue.delayed, queue.flights):
        yield from (at for each in known.values() if base <= (at := each.position) < limit)


def _size(store: Store, positions: list[int]) -> int:
    if not positions:
        return 0
    step = -(-len(positions) // MEASURED_MAX)
    measured = [size_of(store.replica.log, each) for each in positions[::step]]
    return len(positions) * (sum(measured) // len(measured) + HEADER_BYTES)
