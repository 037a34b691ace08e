"""Records as the scanner hands them on: in columns, each stretch in one buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mq.delivery import fold, records
from mq.delivery.options import Declaration
from mq.delivery.queue import QueueState
from mq.delivery.state import State
from mq.storage.segment import Stretch

Record = tuple[int, int, int, int, int, Any, int, int]
"""Position, kind, flags, queue, time, and the payload: it is buffer[start:stop]."""


def alone(records: Iterable[Record]) -> Iterator[Stretch]:
    """Each in a stretch of its own."""
    for each in records:
        yield Stretch.of([each])


def together(records: Iterable[Record]) -> Stretch:
    """All in one stretch; their positions are too far apart to overlap."""
    buffer = bytearray()
    placed = []
    for lsn, *head, source, start, stop in records:
        buffer += bytes(lsn - len(buffer)) + source[start:stop]
        placed.append((lsn, *head, lsn, len(buffer)))
    return Stretch.of([(*each[:5], bytes(buffer), *each[5:]) for each in placed])


def declare(state: State, number: int, lsn: int, declaration: Declaration) -> QueueState:
    """As a DECLARE record at *lsn* does."""
    kind, flags, number, payload = records.declare(number, declaration)
    fold.apply(state, alone([(lsn, kind, flags, number, 0, payload, 0, len(payload))]))
    return state.queues[number]
