"""Records that hold a message of several queues: as published to a topic, and where it was moved to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from struct import Struct, pack, unpack_from
from struct import error as StructError
from typing import Final, NamedTuple

from ..attributes import Attributes, Changes, Sliced, decode_changes, encode_changes
from .kinds import FANOUT, RELOCATE_FANOUT, Draft, Event, Facts, Kind, Times
from .messages import ATTRIBUTED, BODY_BITS, KEPT, attributes_in, describe_attributes, describe_place

# ── FANOUT ─────────────────────────────────────────────────────────────────────────

FANOUT_PAYLOAD: Final = Struct("<BH")  # form, how many queues; then their numbers, and what the form says
OWN_TIMES: Final = 0x01  # of the form: for each queue due and expires follow, instead of the attributes'
RETAINED: Final = 0x02  # of the form: the number of what the topic retains follows
FANOUT_FORMS: Final = OWN_TIMES | RETAINED
NUMBER_PAYLOAD: Final = Struct("<H")


class Fanout(NamedTuple):
    """What a FANOUT record says."""

    queues: tuple[int, ...]  # the numbers of those that get it, ascending; empty: there is no subscriber
    times: tuple[tuple[int, int], ...]  # for each of them due and expires; empty: as the attributes say
    retained: int  # the number of what the topic retains; 0: it does not retain this
    size: int  # of what was published
    attributes: Attributes

    @property
    def holders(self) -> tuple[int, ...]:
        """All that hold the message."""
        return (*self.queues, self.retained) if self.retained else self.queues


def fan_out(
    queues: Sequence[int], times: Sequence[tuple[int, int]], retained: int, body_type: int, published: bytes
) -> Draft:  # fmt: skip
    """*times*: for each queue due and expires, if not all are as the attributes say; else empty.

    *published*: the body, and behind it always attributes, for these name the topic.
    """
    form = (OWN_TIMES if times else 0) | (RETAINED if retained else 0)
    head = pack(f"<BH{len(queues)}H", form, len(queues), *queues)
    if times:
        head += pack(f"<{2 * len(times)}Q", *chain.from_iterable(times))
    if retained:
        head += NUMBER_PAYLOAD.pack(retained)
    return FANOUT, body_type | ATTRIBUTED, 0, head + published


def queues_of(payload: bytes) -> tuple[int, ...]:
    """The numbers of the queues that a FANOUT record names."""
    _, count = FANOUT_PAYLOAD.unpack_from(payload)
    return unpack_from(f"<{count}H", payload, FANOUT_PAYLOAD.size)


def fan_out_head(head: bytes, length: int) -> tuple[int, int, int]:
    """Form, how many queues, and how many bytes of the payload stand before what was published."""
    form, count = FANOUT_PAYLOAD.unpack_from(head)
    size = FANOUT_PAYLOAD.size + count * (18 if form & OWN_TIMES else 2) + (2 if form & RETAINED else 0)
    if size > length:
        raise StructError(f"it is too short for {count} queues")
    return form, count, size


def fanned(payload: bytes) -> bytes:
    """What was published, in a FANOUT record."""
    return payload[fan_out_head(payload, len(payload))[2] :]


def _decode_fan_out(flags: int, buffer: Sliced, start: int, stop: int) -> Fanout:
    form, count, size = fan_out_head(buffer[start : min(start + FANOUT_PAYLOAD.size, stop)], stop - start)
    if form & ~FANOUT_FORMS:
        raise StructError(f"there is no form {form:#x}")
    head, begin = buffer[start : start + size], start + size
    times: tuple[tuple[int, int], ...] = ()
    queues = unpack_from(f"<{count}H", head, FANOUT_PAYLOAD.size)
    if form & OWN_TIMES:
        words = unpack_from(f"<{2 * count}Q", head, FANOUT_PAYLOAD.size + 2 * count)
        times = tuple(zip(words[::2], words[1::2], strict=True))
    retained = NUMBER_PAYLOAD.unpack_from(head, size - NUMBER_PAYLOAD.size)[0] if form & RETAINED else 0
    check_queues(queues)
    attributes = attributes_in(flags, buffer, begin, stop)
    if attributes.topic is None:
        raise StructError("it names no topic")
    if retained in queues or (form & RETAINED and not retained):
        raise StructError(f"the topic cannot retain it in queue {retained}")
    return Fanout(queues, times, retained, stop - begin, attributes)


def check_queues(queues: Sequence[int]) -> None:
    if any(number <= before for before, number in zip((0, *queues), queues, strict=False)):
        raise StructError(f"the queues {queues} do not ascend")


def _describe_fan_out(flags: int, event: Fanout, at: Times) -> Facts:
    facts: Facts = {"queues": list(event.queues)}
    facts |= {"retained": event.retained} if event.retained else {}
    if event.times:
        facts["times"] = [
            {"due": at.wall(due) if due else "now", "expires": at.wall(expires) if expires else "never"}
            for due, expires in event.times
        ]
    return facts | describe_attributes(event.attributes, at)


# ── RELOCATE_FANOUT ────────────────────────────────────────────────────────────────

RELOCATE_FANOUT_PAYLOAD: Final = Struct("<QQHI")  # id, creation time, how many queues, bytes about them
HOLDER_PAYLOAD: Final = Struct("<HIBQQI")  # queue, attempts, place, receipt, deadline or due, changes' bytes


class Holder(NamedTuple):
    """What one queue holds of a message that several have."""

    queue: int
    attempts: int
    place: int
    receipt: int
    when: int  # deadline or due
    changes: Changes | None


def relocate_fan_out(
    id: int, created_ms: int, holders: Iterable[Holder], body_flags: int, published: bytes
) -> Draft:  # fmt: skip
    """*body_flags*: of the record that held it."""
    parts: list[bytes] = []
    count = 0
    for holder in holders:
        changes = encode_changes(holder.changes) if holder.changes else b""
        parts += [HOLDER_PAYLOAD.pack(*holder[:-1], len(changes)), changes]
        count += 1
    said = b"".join(parts)
    payload = RELOCATE_FANOUT_PAYLOAD.pack(id, created_ms, count, len(said)) + said + published
    return RELOCATE_FANOUT, body_flags & (BODY_BITS | ATTRIBUTED), 0, payload


def decode_relocate_fan_out(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    begin = start + RELOCATE_FANOUT_PAYLOAD.size
    id, created, count, size = RELOCATE_FANOUT_PAYLOAD.unpack(buffer[start : min(begin, stop)])
    holders = holders_from(buffer[begin : min(begin + size, stop)], count, size)
    begin += size
    return id, created, stop - begin, holders, attributes_in(flags, buffer, begin, stop)


def holders_from(said: bytes, count: int, size: int) -> list[Holder]:
    """What each of *count* queues holds, in the part of a RELOCATE_FANOUT that should have *size* bytes."""
    holders, at = list[Holder](), 0
    for _ in range(count):
        queue, attempts, place, receipt, when, length = HOLDER_PAYLOAD.unpack_from(said, at)
        if place > KEPT:
            raise StructError(f"there is no place {place}")
        at += HOLDER_PAYLOAD.size
        changes = decode_changes(said[at : at + length]) if length else None
        holders.append(Holder(queue, attempts, place, receipt, when, changes))
        at += length
    if at != size or len(said) != size:
        raise StructError(f"what {count} queues hold takes {at} bytes, not {size}")
    check_queues([holder.queue for holder in holders])
    return holders


def _describe_relocate_fan_out(flags: int, event: Event, at: Times) -> Facts:
    id, created, _, holders, attributes = event
    held = [
        {"queue": each.queue, "attempts": each.attempts}
        | describe_place(each.place, each.receipt, each.when, at)
        for each in holders
    ]
    facts: Facts = {"message": id, "created_at": at.wall(created), "held": held}
    return facts | describe_attributes(attributes, at)


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    FANOUT: Kind("fanout", BODY_BITS | ATTRIBUTED, _decode_fan_out, _describe_fan_out),
    RELOCATE_FANOUT: Kind(
        "relocate-fanout", BODY_BITS | ATTRIBUTED, decode_relocate_fan_out, _describe_relocate_fan_out
    ),
}
