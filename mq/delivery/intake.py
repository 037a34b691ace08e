"""From a publish to records: if its queue has room, and has not seen its dedup id before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from mq.errors import QueueFull

from . import records
from .attributes import Attributes
from .options import Options
from .plan import Plan
from .queue import QueueState
from .records import Draft

VICTIMS: Final = 64  # looked at at once, when the oldest have to go


class Room(NamedTuple):
    """How much a queue holds, and its limits."""

    options: Options
    length: int
    bytes: int

    def has(self, count: int, size: int) -> bool:
        """Whether *count* more messages of *size* bytes together fit in."""
        return (self.options.max_length is None or self.length + count <= self.options.max_length) and (
            self.options.max_bytes is None or self.bytes + size <= self.options.max_bytes
        )

    def could_have(self, count: int, size: int) -> bool:
        """Whether they would if the queue were empty."""
        return Room(self.options, 0, 0).has(count, size)


class NewMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that the caller wants to publish."""

    queue: str
    flags: int
    body: bytes
    priority: int = 0
    delay_ms: int | None = None  # None: the queue's
    due: int = 0  # wall time; instead of a delay
    ttl: float | None = None  # None: the queue's
    group: str | None = None
    headers: dict[str, str] = {}
    dedup_id: str | None = None
    timeout: float = 0.0  # seconds to wait for room, if the queue has none


def admit(plan: Plan, messages: Iterable[NewMessage]) -> list[int]:
    """Plan to publish all of *messages*; for each the place of its draft, or -1 - id if it was there already.

    QueueFull if one of the queues has no room.
    """
    places: list[int] = []
    added: dict[int, tuple[int, int]] = {}
    fresh: dict[tuple[int, str], int] = {}
    drafts: list[Draft] = []
    for message in messages:
        number = plan.number(message.queue)
        queue = plan.state.queue(number)
        key = (number, message.dedup_id) if message.dedup_id is not None else None
        if key:
            if queue and (seen := queue.dedup.find(key[1], plan.now.store)) is not None:
                places.append(-1 - seen)
                continue
            if key in fresh:
                places.append(fresh[key])
                continue
            fresh[key] = len(drafts)
        places.append(len(drafts))
        draft = _draft(plan, number, message)
        drafts.append(draft)
        count, size = added.get(number, (0, 0))
        added[number] = count + 1, size + len(draft[3])
    for number, (count, size) in added.items():
        if (queue := plan.state.queue(number)) and queue.bounded:
            _make_room(plan, queue, count, size)
    first = len(plan.drafts)
    plan.drafts += drafts
    return [place if place < 0 else first + place for place in places]


def _draft(plan: Plan, number: int, message: NewMessage) -> Draft:
    now, options = plan.now, plan.options(number)
    dedup_until = 0
    if message.dedup_id is not None:
        dedup_until = now.store + int(options.dedup_window * 1000)
    delay_ms = int(options.delay * 1000) if message.delay_ms is None else message.delay_ms
    attributes = Attributes(
        message.priority, message.due or (now.wall + delay_ms if delay_ms else 0),
        plan.expires(number, message.ttl), message.group, message.headers, message.dedup_id, dedup_until,
    )  # fmt: skip
    return records.publish(number, message.flags, message.body, attributes)


def _make_room(plan: Plan, queue: QueueState, count: int, size: int) -> None:
    """Plan to drop the oldest, if there are too many and the queue is meant to; else QueueFull."""
    options = queue.options
    freed = plan.freed.get(queue.number, {})
    room = Room(options, queue.total() - len(freed), queue.bytes - sum(freed.values()))
    if room.has(count, size):
        return
    queue.advance(plan.now)
    if options.overflow == "drop_oldest" and room.could_have(count, size):
        gone: list[tuple[int, int]] = []
        for id in _victims(queue):
            if id in freed:
                continue
            each = plan.size_of(queue, id)
            gone.append((id, each))
            room = Room(options, room.length - 1, room.bytes - each)
            if room.has(count, size):
                plan.add(*records.drop(queue.number, records.OVERFLOWED, gone))
                return
    raise QueueFull(
        f"queue {queue.name!r} has {queue.total():,} messages with {queue.bytes:,} bytes, and no room for"
        f" {count:,} more with {size:,}: nothing was published; receive and ack some, or raise its limits"
    )


def _victims(queue: QueueState) -> Iterable[int]:
    """The oldest first, of those that are not in flight."""
    looked_at, count = 0, VICTIMS
    while True:
        found = queue.ready.oldest(count)
        yield from found[looked_at:]
        if len(found) < count:
            return
        looked_at, count = count, 4 * count
