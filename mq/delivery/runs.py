"""Plain records in a row, gathered for each queue, so that they are done at once.

    PUBLISH 10   DELIVER 10   ACK 10   PUBLISH 20   PUBLISH 30   DELIVER 20
                                 ↓
    published 10 20 30     delivered 10 20     in_flight 20

A process that follows others, or opens a store, finds thousands of them.  Most messages that were
delivered there were acked there as well: no object is made for those, and no deadline is noted.

Records about different messages may be applied in any order, records about one message only in
theirs.  Where a run cannot keep that order, the caller applies its records one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple

from . import records

Outline = tuple[int, int, int]  # of a record: its position, label, and the length of its payload
Stretch = tuple[list[int], list[int], list[int], Any, int, int]
"""Records in a row: positions, labels and lengths; buffer and origin: the payload of the record at *lsn*
begins at buffer[lsn - origin].  A long record may not be held in memory: then the buffer is not bytes, and
only gives slices.  A label is kind | flags << 8 | queue << 16.  The last number is not used here.
"""

CHAINED: Final = 0x01 << 8  # of a label: more records of the same group follow
UNCHAINED: Final = 0xFFFF & ~CHAINED  # of a label: kind and flags, but for that one
PUBLISHES: Final = frozenset(records.PUBLISH | flags << 8 for flags in records.PLAIN_FLAGS if not flags & 1)
PLAIN: Final = PUBLISHES | {records.DELIVER, records.ACK}

RUN_LEAST: Final = 8  # records; fewer are applied faster one by one
OTHERS_SHARE: Final = 8  # at most one record of so many is of another kind
OTHERS_MAX: Final = 4  # labels that are looked for


class Run(NamedTuple):
    published: list[int]
    sizes: list[int]  # of those
    delivered: list[int]
    in_flight: dict[int, tuple[int, int]]  # by id, the delivered that were not acked: receipt and deadline
    freed: list[int]  # the sizes of the delivered that were acked
    acked: list[int]  # those that were delivered before
    acked_sizes: list[int]


def _empty() -> Run:
    return Run([], [], [], {}, [], [], [])


def is_plain(label: int, length: int) -> bool:
    """Whether a record with this *label* and *length* need not be decoded in full."""
    kind = label & UNCHAINED
    return (
        kind in PUBLISHES
        or (kind == records.DELIVER and length == records.DELIVER_PAYLOAD.size)
        or (kind == records.ACK and length == records.ACK_PAYLOAD.size)
    )


def publisher(distinct: Collection[int]) -> int:
    """The queue to which all records with these *distinct* labels publish, plainly; 0: there is none."""
    numbers = {label >> 16 if label & UNCHAINED in PUBLISHES else 0 for label in distinct}
    return numbers.pop() if len(numbers) == 1 else 0


def is_worth_it(labels: Sequence[int], distinct: Collection[int]) -> bool:
    """Whether nearly all of the records with these *labels* are plain."""
    others = [label for label in distinct if label & UNCHAINED not in PLAIN]
    return not others or (
        len(others) <= OTHERS_MAX and sum(map(labels.count, others)) * OTHERS_SHARE <= len(labels)
    )


def gather(outlines: Iterable[Outline], buffer: bytes, origin: int, runs: dict[int, Run]) -> Outline | None:
    """Put *outlines* into *runs*, by queue, up to the first one that fits into none, which is returned.

    The payload of the record at *lsn* begins at buffer[lsn - origin].
    """
    number, run = -1, _empty()
    deliver, ack = records.DELIVER_PAYLOAD.unpack_from, records.ACK_PAYLOAD.unpack_from
    for lsn, label, length in outlines:
        if label >> 16 != number:
            number = label >> 16
            run = runs.get(number) or runs.setdefault(number, _empty())
            published, sizes, delivered, in_flight, freed, acked, acked_sizes = run
        kind = label & UNCHAINED
        if kind in PUBLISHES:
            published.append(lsn)
            sizes.append(length)
        elif kind == records.DELIVER and length == 16:
            id, deadline = deliver(buffer, lsn - origin)
            if id >= lsn:  # it was not published yet
                return lsn, label, length
            delivered.append(id)
            in_flight[id] = lsn, deadline
        elif kind == records.ACK and length == 12:
            id, size = ack(buffer, lsn - origin)
            if in_flight.pop(id, None):
                freed.append(size)
            elif id < lsn:
                acked.append(id)
                acked_sizes.append(size)
            else:
                return lsn, label, length
        elif not _gather_many(run, lsn, kind, buffer, lsn - origin, length):
            return lsn, label, length
    return None


def _gather_many(run: Run, lsn: int, kind: int, buffer: bytes, start: int, length: int) -> bool:
    """The same for a record about several messages, which *kind* says; whether it fits."""
    stop = start + length
    if kind == records.DELIVER and length > 16 and not length % 8:
        ids, deadline = records.deliveries_of(buffer, start, stop)
        if max(ids) < lsn:
            run.delivered.extend(ids)
            run.in_flight.update(zip(ids, zip(range(lsn, lsn + len(ids)), repeat(deadline)), strict=False))
            return True
    elif kind == records.ACK and not length % 12:
        acked, sizes = records.acks_of(buffer[start:stop])
        if max(acked, default=0) < lsn:
            for id, size in zip(acked, sizes, strict=True):
                if run.in_flight.pop(id, None):
                    run.freed.append(size)
                else:
                    run.acked.append(id)
                    run.acked_sizes.append(size)
            return True
    return False
