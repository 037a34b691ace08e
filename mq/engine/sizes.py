"""How much a message takes, and when it was published, without reading its body.

A message may have 64 MiB, and hundreds of them may expire at once.  The size goes into the
record that takes the message out (DROP, MOVE, ACK), and every process counts what that says.
"""

from __future__ import annotations

from mq.delivery import records
from mq.errors import Closed, StorageError
from mq.storage.explain import will_pass
from mq.storage.log import Log
from mq.storage.reader import Stored


def size_of(log: Log, position: int) -> int:
    """What was published, in bytes, as far as the record at *position* can be read."""
    size = _glance(log, position)
    if size is not None:
        return size
    stored = readable(log, position)
    return len(records.published_of(stored.kind, stored.flags, 0, stored.payload)[1]) if stored else 0


def created_ms(log: Log, position: int) -> int | None:
    """When the message at *position* was published, wall time; None if its record cannot be read."""
    if (created := glance_created_ms(log, position)) is not None:
        return created
    stored = readable(log, position)
    if stored is None:
        return None
    return records.published_of(stored.kind, stored.flags, stored.time_ms, stored.payload)[0]


def readable(log: Log, position: int) -> Stored | None:
    """The record at *position*; None if it cannot be read now, whatever the reason.

    The others' turn must not wait for that.
    """
    try:
        return log.read(position)
    except Closed:
        return None
    except StorageError as error:
        if will_pass(error):
            raise
        return None


def glance_created_ms(log: Log, position: int) -> int | None:
    """The same, with the body unread in any case; None if the header of the record is not believed."""
    head = log.glance.head(position, log.end)
    if head is None:
        return None
    return records.created_ms(head.kind, head.time_ms, lambda size: log.glance.payload(position, 0, size))


def _glance(log: Log, position: int) -> int | None:
    head = log.glance.head(position, log.end)
    if head is None:
        return None
    kind, flags, length, _ = head
    return records.published_size(
        kind, flags, length, lambda size: log.glance.payload(position, 0, size),
        lambda size: log.glance.payload(position, length - size, size),
    )  # fmt: skip
