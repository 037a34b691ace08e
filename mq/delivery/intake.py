"""From a publish to records: if its queue has room, and has not seen its dedup id before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from mq.errors import QueueFull

from . import records
from .attributes import Attributes, topic_key, trailer
from .options import Options
from .plan import Plan
from .queue import QueueState
from .records import Draft
from .state import EXCHANGE

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

    queue: str  # "": it goes to a topic
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
    topic: str = ""


def admit(plan: Plan, messages: Iterable[NewMessage]) -> list[int]:
    """Plan to publish all of *messages*; for each the place of its draft, or -1 - id if it was there already.

    QueueFull if one of the queues has no room.
    """
    places: list[int] = []
    added: dict[int, tuple[int, int]] = {}
    fresh: dict[tuple[int, str], int] = {}
    drafts: list[Draft] = []
    for message in messages:
        number = EXCHANGE if message.topic else plan.number(message.queue)
        queue = plan.state.queue(number)
        key = None
        if message.dedup_id is not None:
            key = number, topic_key(message.topic, message.dedup_id) if message.topic else message.dedup_id
            if queue and (seen := queue.dedup.find(key[1], plan.now.store)) is not None:
                places.append(-1 - seen)
                continue
            if key in fresh:
                places.append(fresh[key])
                continue
            fresh[key] = len(drafts)
        places.append(len(drafts))
        if message.topic:
            draft, numbers, length = _fan_out(plan, message)
        else:
            draft = _draft(plan, number, message)
            numbers, length = (number,), len(draft[3])
        drafts.append(draft)
        for each in numbers:
            count, size = added.get(each, (0, 0))
            added[each] = count + 1, size + length
    for number, (count, size) in added.items():
        if (queue := plan.state.queue(number)) and queue.bounded:
            _make_room(plan, queue, count, size)
    first = len(plan.drafts)
    plan.drafts += drafts
    return [place if place < 0 else first + place for place in places]


def _draft(plan: Plan, number: int, message: NewMessage) -> Draft:
    due, expires = _times(plan, number, message)
    return records.publish(
        number, message.flags, message.body, _attributes(plan, number, message, due, expires)
    )


def _times(plan: Plan, number: int, message: NewMessage) -> tuple[int, int]:
    """When the message is ready in queue *number*, and when it expires there; 0: at once, and never."""
    delay_ms = message.delay_ms
    if delay_ms is None:
        delay_ms = int(plan.options(number).delay * 1000)
    due = message.due or (plan.now.wall + delay_ms if delay_ms else 0)
    return due, plan.expires(number, message.ttl)


def _attributes(plan: Plan, number: int, message: NewMessage, due: int, expires: int) -> Attributes:
    dedup_until = 0
    if message.dedup_id is not None:
        dedup_until = plan.now.store + int(plan.options(number).dedup_window * 1000)
    return Attributes(
        message.priority, due, expires, message.group, message.headers, message.dedup_id, dedup_until,
        message.topic or None,
    )  # fmt: skip


def _fan_out(plan: Plan, message: NewMessage) -> tuple[Draft, tuple[int, ...], int]:
    """The draft, the numbers of the queues that get the message, and the size of what is published."""
    plan.exchange()
    queues = plan.state.routes.route(message.topic, message.headers)
    times = [_times(plan, number, message) for number in queues]
    topic = plan.state.topic(message.topic)
    body = message.body if queues or topic else b""
    # What a topic retains is as its publisher said: options of the queues that get it now do not count there.
    said = times[0] if times and not topic else _times(plan, EXCHANGE, message)
    differ = times.count(said) < len(times)
    published = body + trailer(_attributes(plan, EXCHANGE, message, *said))
    draft = records.fan_out(
        queues, times if differ else (), topic.number if topic else 0, message.flags, published
    )
    return draft, queues, len(published)


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
