"""When a message was first delivered: the log tells, and nothing else keeps it.

    a receipt ──► its DELIVER record                     has the time, while its segment is there
                  the record that holds the message      has it from when the cleaner wrote that again

The cleaner writes a message again when the oldest segment goes, and a DELIVER record stands behind the
record of its message.  So one of the two is always there.
"""

from __future__ import annotations

from typing import Final

from mq.delivery import records
from mq.delivery.queue import QueueState
from mq.engine.sizes import readable
from mq.storage.log import Log

ID_BYTES: Final = 8


def received_ms(log: Log, queue: QueueState | None, id: int, receipt: int) -> int | None:
    """The wall time of the delivery *receipt* of a message; None if the log does not tell any more."""
    found = delivered_ms(log, id, receipt)
    if found is None and queue and (position := queue.position(id)) is not None:
        said = _said_at(log, position, queue.number)
        found = said[1] if said and said[0] == receipt else None
    return found


def first_received(log: Log, queue: QueueState, id: int, position: int) -> tuple[int, int] | None:
    """The receipt and the wall time of its first delivery; None if there was none, or the log is damaged."""
    receipt = queue.first_receipt(id)
    if not receipt:
        return None
    said = _said_at(log, position, queue.number)
    if said and said[0] == receipt:
        return said
    found = delivered_ms(log, id, receipt)
    return None if found is None else (receipt, found)


def delivered_ms(log: Log, id: int, receipt: int) -> int | None:
    """The time of a DELIVER record of message *id*; None if it is not there."""
    # A receipt is as many bytes into its record as there are messages before this one in it.
    for index in range(records.RUN_MAX):
        position = receipt - index
        if position < log.head:
            return None
        head = log.glance.head(position, log.end)
        if head and head.kind == records.DELIVER:
            behind = 0 if not index else records.DELIVER_PAYLOAD.size + (index - 1) * ID_BYTES
            if log.glance.payload(position, behind, ID_BYTES) == id.to_bytes(ID_BYTES, "little"):
                return head.time_ms
    return None


def _said_at(log: Log, position: int, queue: int) -> tuple[int, int] | None:
    """What the record of a message says of its first delivery in *queue*: receipt, and wall time."""
    stored = readable(log, position)
    if stored is None:
        return None
    return records.received_in(stored.kind, stored.flags, stored.payload, queue)
