"""Records that hold a message: as it was published, and where it was moved to."""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from ..attributes import (
    NO_ATTRIBUTES,
    Attributes,
    Changes,
    Sliced,
    cut_trailer,
    decode_attributes,
    decode_changes,
    trailer,
)
from .kinds import PUBLISH, RELOCATE, Draft, Event, Facts, Kind, Times

# ── PUBLISH ────────────────────────────────────────────────────────────────────────

# Flags, of RELOCATE too: how the body was given, and what follows it.
BYTES: Final = 0x00
TEXT: Final = 0x10
MSGPACK: Final = 0x20
BODY_BITS: Final = 0x30
ATTRIBUTED: Final = 0x40  # attributes and their length
PLAIN_FLAGS: Final = frozenset(body | chained for body in (BYTES, TEXT, MSGPACK) for chained in (0, 1))


def publish(number: int, body_type: int, body: bytes, attributes: Attributes) -> Draft:
    """*body_type*: BYTES, TEXT or MSGPACK."""
    if attributes == NO_ATTRIBUTES:
        return PUBLISH, body_type, number, body
    return PUBLISH, body_type | ATTRIBUTED, number, body + trailer(attributes)


def _decode_publish(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, Attributes]:
    return stop - start, attributes_in(flags, buffer, start, stop)


def _describe_publish(flags: int, event: tuple[int, Attributes], at: Times) -> Facts:
    return describe_attributes(event[1], at)


def describe_attributes(attributes: Attributes, at: Times) -> Facts:
    facts: Facts = {"priority": attributes.priority} if attributes.priority else {}
    facts |= {"due": at.wall(attributes.due)} if attributes.due else {}
    facts |= {"expires": at.wall(attributes.expires)} if attributes.expires else {}
    facts |= {"group": attributes.group} if attributes.group is not None else {}
    facts |= {"headers": attributes.headers} if attributes.headers else {}
    facts |= {"dedup_id": attributes.dedup_id} if attributes.dedup_id is not None else {}
    return facts | ({"topic": attributes.topic} if attributes.topic is not None else {})


def attributes_in(flags: int, buffer: Sliced, start: int, stop: int) -> Attributes:
    """The attributes of what was published, which is buffer[start:stop]."""
    if not flags & ATTRIBUTED:
        return NO_ATTRIBUTES
    return decode_attributes(cut_trailer(buffer, start, stop)[0])


def attributes_at(flags: int, published: bytes) -> Attributes:
    """The attributes of what was published."""
    return attributes_in(flags, published, 0, len(published))


def attributes_of(flags: int, published: bytes) -> tuple[Attributes, bytes]:
    """The attributes, and the body, of what was published."""
    if not flags & ATTRIBUTED:
        return NO_ATTRIBUTES, published
    tail, said = _recent[0]
    if published.endswith(tail):  # its length, too
        return said, published[: -len(tail)]
    data, begin = cut_trailer(published, 0, len(published))
    said = decode_attributes(data)
    if len(data) <= RECENT_BYTES_MAX:
        _recent[0] = published[begin:], said
    return said, published[:begin]


# The trailer that was read last, and what it says: messages that come from one topic mostly have the same.
_recent: Final = [(trailer(NO_ATTRIBUTES), NO_ATTRIBUTES)]
RECENT_BYTES_MAX: Final = 256


# ── RELOCATE ───────────────────────────────────────────────────────────────────────

RELOCATE_PAYLOAD: Final = Struct("<QQIBQQ")  # id, creation time, attempts, place, receipt, deadline or due
CHANGED: Final = 0x80  # a flag: behind what was published come changes, and their length

# Places.
WAITING: Final = 0
DELAYED: Final = 1
IN_FLIGHT: Final = 2
BACKING_OFF: Final = 3  # delayed by a backoff: the due is in store time
KEPT: Final = 4  # by its topic: whatever its attributes say


def relocate(
    number: int, id: int, created_ms: int, facts: tuple[int, int, int, int], body_flags: int,
    published: bytes, changes: Changes | None,
) -> Draft:  # fmt: skip
    """*facts*: attempts, place, receipt, and deadline or due.  *body_flags*: of the record that held it.

    *id* 0: the message is new here, a copy, and its id is the position of this record.
    """
    payload = RELOCATE_PAYLOAD.pack(id, created_ms, *facts) + published
    flags = body_flags & (BODY_BITS | ATTRIBUTED)
    if changes is None:
        return RELOCATE, flags, number, payload
    return RELOCATE, flags | CHANGED, number, payload + trailer(changes)


def _decode_relocate(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    if stop - start < RELOCATE_PAYLOAD.size:
        raise StructError("it is too short")
    begin = start + RELOCATE_PAYLOAD.size
    id, created, attempts, place, receipt, when = RELOCATE_PAYLOAD.unpack(buffer[start:begin])
    if place > KEPT:
        raise StructError(f"there is no place {place}")
    changes = None
    if flags & CHANGED:
        data, stop = cut_trailer(buffer, begin, stop)
        changes = decode_changes(data)
    attributes = attributes_in(flags, buffer, begin, stop)
    return id, created, stop - begin, attempts, place, receipt, when, attributes, changes


def _describe_relocate(flags: int, event: Event, at: Times) -> Facts:
    id, created, _, attempts, place, receipt, when, attributes, _ = event
    facts: Facts = {"message": id} if id else {}
    facts |= {"created_at": at.wall(created), "attempts": attempts}
    return facts | describe_place(place, receipt, when, at) | describe_attributes(attributes, at)


def describe_place(place: int, receipt: int, when: int, at: Times) -> Facts:
    if place == IN_FLIGHT:
        return {"place": "in_flight", "receipt": receipt, "deadline": at.store(when)}
    if place == DELAYED:
        return {"place": "delayed", "due": at.wall(when)}
    if place == BACKING_OFF:
        return {"place": "resting", "due": at.store(when)}
    return {"place": "retained" if place == KEPT else "waiting"}


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    PUBLISH: Kind("publish", BODY_BITS | ATTRIBUTED, _decode_publish, _describe_publish),
    RELOCATE: Kind("relocate", BODY_BITS | ATTRIBUTED | CHANGED, _decode_relocate, _describe_relocate),
}
