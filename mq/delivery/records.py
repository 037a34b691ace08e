"""What a record means to the delivery layer: its kind, and what its payload holds.

    kind        payload
    ──────────  ──────────────────────────────────────────────────────────────
    DECLARE     msgpack: name, all options, the meta, and the totals so far
    PUBLISH     the body, then attributes if there are any
    DELIVER     message id, deadline, then the ids of those delivered with it
    ACK         for each message its id, and the size of what was published
    NACK        message id, due, time, then the reason as UTF-8
    RELEASE     message id
    EXTEND      message id, new deadline
    PURGE       cutoff, then message id and size for each that stays
    RELOCATE    message id, creation time, attempts, place, receipt, deadline or due, then what was
                published, then what happened to it since: the message stands here now
    MOVE        message id, size, the queue it goes to, and why: to the dead letters, or back
    DROP        message id and size for each that goes: expired, cancelled, or the oldest of too many
    RESCHEDULE  message id, due
    DELETE      nothing: the queue goes, with all it holds
    DEDUP       a dedup id that is remembered: message id, until when, the dedup id
    RENEW       until when a queue that is deleted when it is idle stays
    FANOUT      the queues that get it, then what was published to a topic: body and attributes
    RELOCATE_FANOUT   as RELOCATE, of a message that several queues hold: what each holds, once what
                was published
    SUBSCRIBE   msgpack: a pattern, and the headers that a message needs
    UNSUBSCRIBE the pattern
    BACKFILL    the number of a topic, then id and size of retained messages of it that wait here too
    SCHEDULE    the body of the messages, then all else that is known of the schedule
    TICK        when the next tick is due, when one was published last, how many were late, the name
    UNSCHEDULE  the name of the schedule

A message's id is the position of its PUBLISH or FANOUT record, or of a RELOCATE record that names none.
The receipt of a delivery is the position of its DELIVER record; of the n-th message there, n bytes further
in.  Deadlines and the ends of dedup windows are milliseconds of store time, and so is the due of a backoff;
other dues, and expiries, are milliseconds of wall time, all since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import ge
from struct import Struct, pack, unpack, unpack_from
from struct import error as StructError
from typing import Any, Final, NamedTuple

import msgspec

from .attributes import (
    CHANGES_BYTES_MAX,
    NO_ATTRIBUTES,
    TRAILER_LENGTH,
    Attributes,
    Changes,
    Sliced,
    cut_trailer,
    decode_attributes,
    decode_changes,
    encode_changes,
    trailer,
    trailer_at,
)
from .options import Declaration
from .schedules import Schedule

DECLARE: Final = 16
PUBLISH: Final = 17
DELIVER: Final = 18
ACK: Final = 19
NACK: Final = 20
RELEASE: Final = 21
EXTEND: Final = 22
PURGE: Final = 23
RELOCATE: Final = 24
MOVE: Final = 25
DROP: Final = 26
RESCHEDULE: Final = 27
DELETE: Final = 28
DEDUP: Final = 29
RENEW: Final = 30
FANOUT: Final = 31
RELOCATE_FANOUT: Final = 32
SUBSCRIBE: Final = 33
UNSUBSCRIBE: Final = 34
BACKFILL: Final = 35
SCHEDULE: Final = 36
TICK: Final = 37
UNSCHEDULE: Final = 38
NEW: Final = frozenset({PUBLISH, FANOUT})  # those that bring a message, whose id is their position
OF_ANY: Final = frozenset({DECLARE, DEDUP})  # those of a queue, or of what belongs to none
BODIED: Final = frozenset({PUBLISH, RELOCATE, FANOUT, RELOCATE_FANOUT, SCHEDULE})  # those that hold a body
# Those of no single queue: number 0.
OF_THE_STORE: Final = frozenset({FANOUT, RELOCATE_FANOUT, SCHEDULE, TICK, UNSCHEDULE})

UNKNOWN: Final = 0xFE  # bits of flags that mean nothing, unless `Kind.flags` has them
EXPIRED: Final = 0x40  # a bit of the flags of MOVE and DROP
RUN_MAX: Final = 128  # messages in one record, so that damage to it concerns no more

# What the log holds at most for what is live, beside bodies: see `QueueState.live_bytes`.
DECLARATION_BYTES: Final = 512  # for a queue itself: more than a declaration takes without its meta
MESSAGE_OVERHEAD_BYTES: Final = 96  # for a message, moved and settled once


Event = tuple[Any, ...]
"""What a payload holds, decoded: the arguments of the method of the fold that the kind names."""
Draft = tuple[int, int, int, bytes]
"""A record that is not appended yet: kind, flags, queue number, payload."""
Facts = dict[str, Any]
"""What a record says, by name, for people.  Its messages are under `messages`, or the one under `message`."""


class Times(NamedTuple):
    """How moments are shown to people: given milliseconds, as text."""

    wall: Callable[[int], str]  # of wall time
    store: Callable[[int], str]  # of store time


class Kind(NamedTuple):
    """What this module knows of one kind.  What the fold does with it is in fold.py."""

    name: str
    flags: int  # the bits that mean something; the bits of storage aside, others are refused
    decode: Callable[[int, Sliced, int, int], Event]  # flags, and the payload: buffer[start:stop]
    describe: Callable[[int, Any, Times], Facts]  # flags, event


# Below, for each kind: how a record is made, how its payload is decoded, how the event is described.


# ── DECLARE ────────────────────────────────────────────────────────────────────────

decode_declaration: Final = msgspec.msgpack.Decoder(Declaration).decode


def encode_declaration(declaration: Declaration) -> bytes:
    """Only what is not as by default, so that most take few bytes."""
    return msgspec.msgpack.encode(msgspec.to_builtins(declaration))


def declare(number: int, declaration: Declaration) -> Draft:
    return DECLARE, 0, number, encode_declaration(declaration)


def _decode_declare(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Declaration]:
    return (decode_declaration(buffer[start:stop]),)


def _describe_declare(flags: int, event: tuple[Declaration], at: Times) -> Facts:
    found = dict(msgspec.to_builtins(event[0]))
    meta = found.pop("meta", None)
    facts: Facts = {"name": found.pop("name"), "options": found}
    return facts | ({"meta": meta} if meta else {})


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
    return stop - start, _attributes_in(flags, buffer, start, stop)


def _describe_publish(flags: int, event: tuple[int, Attributes], at: Times) -> Facts:
    return _describe_attributes(event[1], at)


def _describe_attributes(attributes: Attributes, at: Times) -> Facts:
    facts: Facts = {"priority": attributes.priority} if attributes.priority else {}
    facts |= {"due": at.wall(attributes.due)} if attributes.due else {}
    facts |= {"expires": at.wall(attributes.expires)} if attributes.expires else {}
    facts |= {"group": attributes.group} if attributes.group is not None else {}
    facts |= {"headers": attributes.headers} if attributes.headers else {}
    facts |= {"dedup_id": attributes.dedup_id} if attributes.dedup_id is not None else {}
    return facts | ({"topic": attributes.topic} if attributes.topic is not None else {})


def _attributes_in(flags: int, buffer: Sliced, start: int, stop: int) -> Attributes:
    """The attributes of what was published, which is buffer[start:stop]."""
    if not flags & ATTRIBUTED:
        return NO_ATTRIBUTES
    return decode_attributes(cut_trailer(buffer, start, stop)[0])


def attributes_at(flags: int, published: bytes) -> Attributes:
    """The attributes of what was published."""
    return _attributes_in(flags, published, 0, len(published))


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
    attributes = _attributes_in(flags, buffer, begin, stop)
    return id, created, stop - begin, attempts, place, receipt, when, attributes, changes


def _describe_relocate(flags: int, event: Event, at: Times) -> Facts:
    id, created, _, attempts, place, receipt, when, attributes, _ = event
    facts: Facts = {"message": id} if id else {}
    facts |= {"created_at": at.wall(created), "attempts": attempts}
    return facts | _describe_place(place, receipt, when, at) | _describe_attributes(attributes, at)


def _describe_place(place: int, receipt: int, when: int, at: Times) -> Facts:
    if place == IN_FLIGHT:
        return {"place": "in_flight", "receipt": receipt, "deadline": at.store(when)}
    if place == DELAYED:
        return {"place": "delayed", "due": at.wall(when)}
    if place == BACKING_OFF:
        return {"place": "resting", "due": at.store(when)}
    return {"place": "retained" if place == KEPT else "waiting"}


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


def _fan_out_head(head: bytes, length: int) -> tuple[int, int, int]:
    """Form, how many queues, and how many bytes of the payload stand before what was published."""
    form, count = FANOUT_PAYLOAD.unpack_from(head)
    size = FANOUT_PAYLOAD.size + count * (18 if form & OWN_TIMES else 2) + (2 if form & RETAINED else 0)
    if size > length:
        raise StructError(f"it is too short for {count} queues")
    return form, count, size


def fanned(payload: bytes) -> bytes:
    """What was published, in a FANOUT record."""
    form, count = FANOUT_PAYLOAD.unpack_from(payload)
    size = FANOUT_PAYLOAD.size + count * (18 if form & OWN_TIMES else 2) + (2 if form & RETAINED else 0)
    return payload[size:]


def _decode_fan_out(flags: int, buffer: Sliced, start: int, stop: int) -> Fanout:
    form, count, size = _fan_out_head(buffer[start : min(start + FANOUT_PAYLOAD.size, stop)], stop - start)
    if form & ~FANOUT_FORMS:
        raise StructError(f"there is no form {form:#x}")
    head, begin = buffer[start : start + size], start + size
    times: tuple[tuple[int, int], ...] = ()
    queues = unpack_from(f"<{count}H", head, FANOUT_PAYLOAD.size)
    if form & OWN_TIMES:
        words = unpack_from(f"<{2 * count}Q", head, FANOUT_PAYLOAD.size + 2 * count)
        times = tuple(zip(words[::2], words[1::2], strict=True))
    retained = NUMBER_PAYLOAD.unpack_from(head, size - NUMBER_PAYLOAD.size)[0] if form & RETAINED else 0
    _check_queues(queues)
    attributes = _attributes_in(flags, buffer, begin, stop)
    if attributes.topic is None:
        raise StructError("it names no topic")
    if retained in queues or (form & RETAINED and not retained):
        raise StructError(f"the topic cannot retain it in queue {retained}")
    return Fanout(queues, times, retained, stop - begin, attributes)


def _check_queues(queues: Sequence[int]) -> None:
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
    return facts | _describe_attributes(event.attributes, at)


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


def _decode_relocate_fan_out(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    begin = start + RELOCATE_FANOUT_PAYLOAD.size
    id, created, count, size = RELOCATE_FANOUT_PAYLOAD.unpack(buffer[start : min(begin, stop)])
    holders = _holders_in(buffer[begin : min(begin + size, stop)], count, size)
    begin += size
    return id, created, stop - begin, holders, _attributes_in(flags, buffer, begin, stop)


def _holders_in(said: bytes, count: int, size: int) -> list[Holder]:
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
    _check_queues([holder.queue for holder in holders])
    return holders


def _describe_relocate_fan_out(flags: int, event: Event, at: Times) -> Facts:
    id, created, _, holders, attributes = event
    held = [
        {"queue": each.queue, "attempts": each.attempts}
        | _describe_place(each.place, each.receipt, each.when, at)
        for each in holders
    ]
    facts: Facts = {"message": id, "created_at": at.wall(created), "held": held}
    return facts | _describe_attributes(attributes, at)


# ── bodies, wherever they stand ────────────────────────────────────────────────────


def received_in(kind: int, flags: int, payload: bytes, queue: int) -> tuple[int, int] | None:
    """What a record that holds a message says of its first delivery in *queue*: receipt, and wall time."""
    changes = None
    if kind == RELOCATE and flags & CHANGED:
        changes = decode_changes(cut_trailer(payload, 0, len(payload))[0])
    elif kind == RELOCATE_FANOUT:
        holders = _decode_relocate_fan_out(flags, payload, 0, len(payload))[3]
        changes = next((each.changes for each in holders if each.queue == queue), None)
    return changes.received if changes else None


def published_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and what was published, wherever it stands now."""
    if kind == RELOCATE:
        created_ms = RELOCATE_PAYLOAD.unpack_from(payload)[1]
        payload = payload[RELOCATE_PAYLOAD.size :]
        if flags & CHANGED:
            payload = payload[: trailer_at(payload, 0, len(payload))]
    elif kind == FANOUT:
        payload = payload[_fan_out_head(payload, len(payload))[2] :]
    elif kind == RELOCATE_FANOUT:
        _, created_ms, _, size = RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)
        payload = payload[RELOCATE_FANOUT_PAYLOAD.size + size :]
    return created_ms, payload


def created_ms(kind: int, time_ms: int, head: Callable[[int], bytes]) -> int | None:
    """When the message in a record of *time_ms* was created; *head* gives the first bytes of its payload.

    None if the record holds none.
    """
    if kind in NEW:
        return time_ms
    layout = RELOCATE_PAYLOAD if kind == RELOCATE else RELOCATE_FANOUT_PAYLOAD
    if kind in (RELOCATE, RELOCATE_FANOUT):
        data = head(layout.size)
        return int(layout.unpack(data)[1]) if len(data) == layout.size else None
    return None


def published_size(
    kind: int, flags: int, length: int, head: Callable[[int], bytes], tail: Callable[[int], bytes]
) -> int | None:
    """How long what was published is, in a payload of *length* bytes.

    *head* gives the first bytes of it, and *tail* the last ones.  None if it cannot be so.
    """
    if kind == PUBLISH:
        return length
    size = length - RELOCATE_PAYLOAD.size
    try:
        if kind == FANOUT:
            size = length - _fan_out_head(head(FANOUT_PAYLOAD.size), length)[2]
        elif kind == RELOCATE_FANOUT:
            data = head(RELOCATE_FANOUT_PAYLOAD.size)
            size = length - len(data) - RELOCATE_FANOUT_PAYLOAD.unpack(data)[3]
        elif kind != RELOCATE:
            return None
        elif flags & CHANGED:
            (cut,) = TRAILER_LENGTH.unpack(tail(TRAILER_LENGTH.size))
            size -= cut + TRAILER_LENGTH.size
            if cut > CHANGES_BYTES_MAX or size < 0:
                return None
            decode_changes(tail(cut + TRAILER_LENGTH.size)[:cut])
    except (StructError, msgspec.MsgspecError):
        return None
    return size if size >= 0 else None


def body_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and its body, wherever it stands now."""
    created_ms, published = published_of(kind, flags, created_ms, payload)
    if flags & ATTRIBUTED or kind == SCHEDULE:
        published = published[: trailer_at(published, 0, len(published))]
    return created_ms, published


def message_of(kind: int, position: int, payload: bytes) -> int | None:
    """The message whose body the record holds; None if it holds none."""
    if kind in NEW:
        return position
    if kind == RELOCATE and len(payload) >= RELOCATE_PAYLOAD.size:
        return int(RELOCATE_PAYLOAD.unpack_from(payload)[0]) or position
    if kind == RELOCATE_FANOUT and len(payload) >= RELOCATE_FANOUT_PAYLOAD.size:
        return int(RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)[0])
    return None


def holders_in(kind: int, payload: bytes) -> tuple[int, ...]:
    """The numbers of the queues that a damaged FANOUT or RELOCATE_FANOUT names; none if it makes no sense."""
    try:
        if kind == FANOUT:
            _fan_out_head(payload, len(payload))
            queues = queues_of(payload)
            _check_queues(queues)
            return queues
        _, _, count, size = RELOCATE_FANOUT_PAYLOAD.unpack_from(payload)
        said = payload[RELOCATE_FANOUT_PAYLOAD.size :][:size]
        return tuple(each.queue for each in _holders_in(said, count, size))
    except (StructError, msgspec.MsgspecError):
        return ()


# ── DELIVER ────────────────────────────────────────────────────────────────────────

DELIVER_PAYLOAD: Final = Struct("<QQ")  # the first id, the deadline; the other ids follow
TIMED_OUT: Final = 0x10  # a flag: the delivery before this one had timed out
UNKNOWN_TO_DELIVER: Final = UNKNOWN & ~TIMED_OUT


def encode_deliveries(ids: Sequence[int], deadline: int) -> bytes:
    """The payload of a DELIVER record: for RUN_MAX ids at most."""
    return pack(f"<{len(ids) + 1}Q", ids[0], deadline, *ids[1:])


def deliveries_of(buffer: bytes, start: int, stop: int) -> tuple[list[int], int]:
    """The ids and the deadline in a DELIVER record."""
    id, deadline, *others = unpack_from(f"<{(stop - start) // 8}Q", buffer, start)
    return [id, *others], deadline


def _decode_deliver(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[list[int], int]:
    if stop - start < DELIVER_PAYLOAD.size or (stop - start) % 8:
        raise StructError(f"{stop - start} bytes are no ids and no deadline")
    return deliveries_of(buffer[start:stop], 0, stop - start)


def _describe_deliver(flags: int, event: tuple[list[int], int], at: Times) -> Facts:
    return {"messages": event[0], "deadline": at.store(event[1])}


# ── ACK ────────────────────────────────────────────────────────────────────────────

ACK_PAYLOAD: Final = Struct("<QI")  # id, size; again for each of the others


def encode_acks(ids: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    """The payloads of ACK records: as few as can be."""
    flat = [*ids, *ids]
    flat[::2], flat[1::2] = ids, sizes
    most = 2 * RUN_MAX
    runs = [flat[at : at + most] for at in range(0, len(flat), most)]
    return [pack("<" + "QI" * (len(run) // 2), *run) for run in runs]


def acks_of(payload: bytes) -> tuple[Sequence[int], Sequence[int]]:
    """The ids and sizes in an ACK record."""
    flat = unpack("<" + "QI" * (len(payload) // ACK_PAYLOAD.size), payload)
    return flat[::2], flat[1::2]


def _decode_ack(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    return acks_of(buffer[start:stop])


def _describe_ack(flags: int, event: Event, at: Times) -> Facts:
    return {"messages": list(event[0])}


# ── NACK ───────────────────────────────────────────────────────────────────────────

NACK_PAYLOAD: Final = Struct("<QQ")  # id, due
TIMED_NACK_PAYLOAD: Final = Struct("<QQQ")  # and the time
TIMED: Final = 0x10  # a flag: it says when.  Records of old do not.
BY_BACKOFF: Final = 0x20  # a flag: a backoff decided the due, so it is in store time.  Not in records of old.
REASON_BYTES_MAX: Final = 1024
TIMEOUT_REASON: Final = "the visibility timeout passed"


def nack(number: int, id: int, due: int, at: int, reason: str, *, backoff: bool = False) -> Draft:
    """It failed at *at*, store time.  *due*: wall time, or store time if a *backoff* decided it; 0: now."""
    payload = TIMED_NACK_PAYLOAD.pack(id, due, at) + encode_reason(reason)
    return NACK, TIMED | BY_BACKOFF if backoff else TIMED, number, payload


def _decode_nack(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, int, int, str, bool]:
    """Id, due, time (0 if it does not say), reason, and whether the due is in store time."""
    payload, at = buffer[start:stop], 0
    if flags & TIMED:
        id, due, at = TIMED_NACK_PAYLOAD.unpack_from(payload)
        reason = payload[TIMED_NACK_PAYLOAD.size :]
    else:
        id, due = NACK_PAYLOAD.unpack_from(payload)
        reason = payload[NACK_PAYLOAD.size :]
    return id, due, at, _decode_reason(reason), bool(flags & BY_BACKOFF)


def _describe_nack(flags: int, event: tuple[int, int, int, str, bool], at: Times) -> Facts:
    id, due, _, reason, backoff = event
    shown = "now" if not due else at.store(due) if backoff else at.wall(due)
    return {"message": id, "due": shown, "reason": reason}


def encode_reason(reason: str) -> bytes:
    """As UTF-8, cut where it gets too long to keep."""
    return reason.encode(errors="replace")[:REASON_BYTES_MAX]


def _decode_reason(data: bytes) -> str:
    """It may have been cut inside a character."""
    return data.decode(errors="ignore")


# ── RELEASE, EXTEND, RESCHEDULE, DELETE, RENEW ─────────────────────────────────────

RELEASE_PAYLOAD: Final = Struct("<Q")
EXTEND_PAYLOAD: Final = Struct("<QQ")
RESCHEDULE_PAYLOAD: Final = Struct("<QQ")
RENEW_PAYLOAD: Final = Struct("<Q")


def release(number: int, id: int) -> Draft:
    return RELEASE, 0, number, RELEASE_PAYLOAD.pack(id)


def extend(number: int, id: int, deadline: int) -> Draft:
    return EXTEND, 0, number, EXTEND_PAYLOAD.pack(id, deadline)


def reschedule(number: int, id: int, due: int) -> Draft:
    """*due*: wall time; 0: now."""
    return RESCHEDULE, 0, number, RESCHEDULE_PAYLOAD.pack(id, due)


def delete(number: int) -> Draft:
    return DELETE, 0, number, b""


def renew(number: int, until: int) -> Draft:
    return RENEW, 0, number, RENEW_PAYLOAD.pack(until)


def _numbers(layout: Struct) -> Callable[[int, Sliced, int, int], Event]:
    return lambda flags, buffer, start, stop: layout.unpack_from(buffer[start:stop])


def _decode_delete(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    return ()


def _describe_release(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0]}


def _describe_extend(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0], "deadline": at.store(event[1])}


def _describe_reschedule(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0], "due": at.wall(event[1]) if event[1] else "now"}


def _describe_delete(flags: int, event: Event, at: Times) -> Facts:
    return {}


def _describe_renew(flags: int, event: Event, at: Times) -> Facts:
    return {"until": at.store(event[0])}


# ── PURGE, DROP ────────────────────────────────────────────────────────────────────

PURGE_PAYLOAD: Final = Struct("<Q")  # cutoff
SIZED_PAYLOAD: Final = Struct("<QI")  # id, size: of each that a PURGE keeps, or a DROP drops
OVERFLOWED: Final = 0x80  # a flag of DROP: there were too many

Pairs = Iterable[tuple[int, int]]  # message id, and the size of what was published


def purge(number: int, cutoff: int, kept: Pairs) -> Draft:
    """*cutoff*: what was in flight until then goes too, *kept* aside; store time."""
    return PURGE, 0, number, PURGE_PAYLOAD.pack(cutoff) + _encode_pairs(kept)


def drop(number: int, why: int, gone: Pairs) -> Draft:
    """*why*: EXPIRED, OVERFLOWED, or 0: cancelled.  With DIED: a copy of it went to the dead letters."""
    return DROP, why, number, _encode_pairs(gone)


def _encode_pairs(pairs: Pairs) -> bytes:
    return b"".join([SIZED_PAYLOAD.pack(*pair) for pair in pairs])


def _decode_purge(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, Pairs]:
    (cutoff,) = PURGE_PAYLOAD.unpack_from(buffer[start:stop])
    return cutoff, SIZED_PAYLOAD.iter_unpack(buffer[start + PURGE_PAYLOAD.size : stop])


def _decode_drop(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Pairs]:
    return (SIZED_PAYLOAD.iter_unpack(buffer[start:stop]),)


def _describe_purge(flags: int, event: tuple[int, Pairs], at: Times) -> Facts:
    return {"cutoff": at.store(event[0]), "kept": [id for id, _ in event[1]]}


def _describe_drop(flags: int, event: tuple[Pairs], at: Times) -> Facts:
    why = {EXPIRED: "expired", OVERFLOWED: "too many"}.get(flags & (EXPIRED | OVERFLOWED), "cancelled")
    return {"messages": [id for id, _ in event[0]], "why": "dead" if flags & DIED else why}


# ── MOVE ───────────────────────────────────────────────────────────────────────────

MOVE_PAYLOAD: Final = Struct("<QIHQQB")  # id, size, to, time, expires, length of the origin's name
DIED: Final = 0x10  # a flag: to the dead letters; else back from them, as if it had never been tried
FAILED: Final = 0x20  # a flag: by an attempt that failed


class Move(msgspec.Struct, frozen=True, gc=False):
    """What a MOVE record says."""

    id: int
    size: int
    to: int  # the number of the queue
    at: int  # store time
    expires: int  # wall time; 0: never
    origin: str = ""
    reason: str = ""


def move(number: int, flags: int, what: Move) -> Draft:
    return MOVE, flags, number, encode_move(what)


def encode_move(what: Move) -> bytes:
    origin = what.origin.encode()
    head = MOVE_PAYLOAD.pack(what.id, what.size, what.to, what.at, what.expires, len(origin))
    return head + origin + encode_reason(what.reason)


def moved_to(payload: bytes) -> int:
    """The number of the queue that a MOVE record names."""
    return int(MOVE_PAYLOAD.unpack_from(payload)[2])


def _decode_move(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Move]:
    payload = buffer[start:stop]
    id, size, to, at, expires, length = MOVE_PAYLOAD.unpack_from(payload)
    cut = MOVE_PAYLOAD.size + length
    if cut > len(payload):
        raise StructError(f"the name of {length} bytes is longer than the record")
    origin, reason = payload[MOVE_PAYLOAD.size : cut].decode(), _decode_reason(payload[cut:])
    return (Move(id, size, to, at, expires, origin, reason),)


def _describe_move(flags: int, event: tuple[Move], at: Times) -> Facts:
    facts: Facts = {"message": event[0].id, "to": event[0].to, "dead": bool(flags & DIED)}
    return facts | ({"reason": event[0].reason} if event[0].reason else {})


# ── DEDUP ──────────────────────────────────────────────────────────────────────────

DEDUP_PAYLOAD: Final = Struct("<QQ")  # id, until; the dedup id follows


def dedup(number: int, id: int, until: int, key: str) -> Draft:
    return DEDUP, 0, number, DEDUP_PAYLOAD.pack(id, until) + key.encode()


def _decode_dedup(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, int, str]:
    payload = buffer[start:stop]
    id, until = DEDUP_PAYLOAD.unpack_from(payload)
    return id, until, payload[DEDUP_PAYLOAD.size :].decode()


def _describe_dedup(flags: int, event: tuple[int, int, str], at: Times) -> Facts:
    id, until, key = event
    return {"message": id, "dedup_id": key, "until": at.store(until)}


# ── SUBSCRIBE, UNSUBSCRIBE ─────────────────────────────────────────────────────────


class Subscribed(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, array_like=False, gc=False
):
    """What a SUBSCRIBE record says."""

    pattern: str
    match: dict[str, str] = {}  # headers that a message needs
    bound_at: int = 0  # behind this id the queue gets, or has got, all that fits; 0: behind this record


decode_subscribed: Final = msgspec.msgpack.Decoder(Subscribed).decode


def subscribe(number: int, what: Subscribed) -> Draft:
    return SUBSCRIBE, 0, number, msgspec.msgpack.encode(what)


def unsubscribe(number: int, pattern: str) -> Draft:
    return UNSUBSCRIBE, 0, number, pattern.encode()


def _decode_subscribe(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Subscribed]:
    return (decode_subscribed(buffer[start:stop]),)


def _decode_unsubscribe(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[str]:
    return (buffer[start:stop].decode(),)


def _describe_subscribe(flags: int, event: tuple[Subscribed], at: Times) -> Facts:
    facts: Facts = dict(msgspec.to_builtins(event[0]))
    return facts


def _describe_unsubscribe(flags: int, event: tuple[str], at: Times) -> Facts:
    return {"pattern": event[0]}


# ── BACKFILL ───────────────────────────────────────────────────────────────────────

BACKFILL_PAYLOAD: Final = Struct("<H")  # the number of the topic; id and size of each message follow


def backfill(
    number: int, topic: int, ids: Sequence[int], sizes: Sequence[int], attributes: Attributes = NO_ATTRIBUTES
) -> Draft:  # fmt: skip
    """*topic*: the number of what retains them.  *attributes*: what of theirs counts, the same for all."""
    flat = [*ids, *sizes]
    flat[::2], flat[1::2] = ids, sizes
    payload = BACKFILL_PAYLOAD.pack(topic) + pack("<" + "QI" * len(ids), *flat)
    if attributes == NO_ATTRIBUTES:
        return BACKFILL, 0, number, payload
    return BACKFILL, ATTRIBUTED, number, payload + trailer(attributes)


def _decode_backfill(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    (topic,) = BACKFILL_PAYLOAD.unpack_from(buffer[start:stop])
    attributes = _attributes_in(flags, buffer, start, stop)
    if flags & ATTRIBUTED:
        stop = cut_trailer(buffer, start, stop)[1]
    ids, sizes = acks_of(buffer[start + BACKFILL_PAYLOAD.size : stop])
    if not ids or any(map(ge, ids, ids[1:])):
        raise StructError("its messages do not ascend")
    return topic, ids, sizes, attributes


def _describe_backfill(flags: int, event: Event, at: Times) -> Facts:
    topic, ids, _, attributes = event
    return {"topic": topic, "messages": list(ids)} | _describe_attributes(attributes, at)


# ── SCHEDULE, TICK, UNSCHEDULE ─────────────────────────────────────────────────────

TICK_PAYLOAD: Final = Struct("<QQI")  # next, last, late; the name follows

_encode_schedule: Final = msgspec.msgpack.Encoder().encode
_decode_known: Final = msgspec.msgpack.Decoder(Schedule).decode


def schedule(what: Schedule, body_type: int, body: bytes) -> Draft:
    """*body_type*: BYTES, TEXT or MSGPACK."""
    data = _encode_schedule(what)
    return SCHEDULE, body_type, 0, body + data + TRAILER_LENGTH.pack(len(data))


def scheduled_body(flags: int, payload: bytes) -> tuple[int, bytes]:
    """How the body of a SCHEDULE record was given, and its bytes."""
    return flags & BODY_BITS, payload[: trailer_at(payload, 0, len(payload))]


def tick(name: str, next: int, last: int, late: int) -> Draft:
    return TICK, 0, 0, TICK_PAYLOAD.pack(next, last, late) + name.encode()


def unschedule(name: str) -> Draft:
    return UNSCHEDULE, 0, 0, name.encode()


def _decode_schedule(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Schedule, int]:
    found = _decode_known(cut_trailer(buffer, start, stop)[0])
    if (found.cron is None) == (found.every is None):
        raise StructError("it has no times, or two kinds of them")
    return found, stop - start


def _decode_tick(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[str, int, int, int]:
    payload = buffer[start:stop]
    next, last, late = TICK_PAYLOAD.unpack_from(payload)
    return payload[TICK_PAYLOAD.size :].decode(), next, last, late


def _decode_unschedule(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[str]:
    return (buffer[start:stop].decode(),)


def _describe_schedule(flags: int, event: tuple[Schedule, int], at: Times) -> Facts:
    facts: Facts = dict(msgspec.to_builtins(event[0]))
    facts = {"schedule": facts.pop("name")} | facts
    moments = {name: at.wall(when) for name in ("next", "since", "last") if (when := facts.get(name))}
    return facts | moments


def _describe_tick(flags: int, event: tuple[str, int, int, int], at: Times) -> Facts:
    name, next, last, late = event
    facts: Facts = {"schedule": name, "next": at.wall(next)} | ({"last": at.wall(last)} if last else {})
    return facts | ({"late": late} if late else {})


def _describe_unschedule(flags: int, event: tuple[str], at: Times) -> Facts:
    return {"schedule": event[0]}


# ── all of them ────────────────────────────────────────────────────────────────────

KINDS: Final = {
    DECLARE: Kind("declare", 0, _decode_declare, _describe_declare),
    PUBLISH: Kind("publish", BODY_BITS | ATTRIBUTED, _decode_publish, _describe_publish),
    DELIVER: Kind("deliver", TIMED_OUT, _decode_deliver, _describe_deliver),
    ACK: Kind("ack", 0, _decode_ack, _describe_ack),
    NACK: Kind("nack", TIMED | BY_BACKOFF, _decode_nack, _describe_nack),
    RELEASE: Kind("release", 0, _numbers(RELEASE_PAYLOAD), _describe_release),
    EXTEND: Kind("extend", 0, _numbers(EXTEND_PAYLOAD), _describe_extend),
    PURGE: Kind("purge", 0, _decode_purge, _describe_purge),
    RELOCATE: Kind("relocate", BODY_BITS | ATTRIBUTED | CHANGED, _decode_relocate, _describe_relocate),
    MOVE: Kind("move", DIED | FAILED | EXPIRED, _decode_move, _describe_move),
    DROP: Kind("drop", DIED | FAILED | EXPIRED | OVERFLOWED, _decode_drop, _describe_drop),
    RESCHEDULE: Kind("reschedule", 0, _numbers(RESCHEDULE_PAYLOAD), _describe_reschedule),
    DELETE: Kind("delete", 0, _decode_delete, _describe_delete),
    DEDUP: Kind("dedup", 0, _decode_dedup, _describe_dedup),
    RENEW: Kind("renew", 0, _numbers(RENEW_PAYLOAD), _describe_renew),
    FANOUT: Kind("fanout", BODY_BITS | ATTRIBUTED, _decode_fan_out, _describe_fan_out),
    RELOCATE_FANOUT: Kind(
        "relocate-fanout", BODY_BITS | ATTRIBUTED, _decode_relocate_fan_out, _describe_relocate_fan_out
    ),
    SUBSCRIBE: Kind("subscribe", 0, _decode_subscribe, _describe_subscribe),
    UNSUBSCRIBE: Kind("unsubscribe", 0, _decode_unsubscribe, _describe_unsubscribe),
    BACKFILL: Kind("backfill", ATTRIBUTED, _decode_backfill, _describe_backfill),
    SCHEDULE: Kind("schedule", BODY_BITS, _decode_schedule, _describe_schedule),
    TICK: Kind("tick", 0, _decode_tick, _describe_tick),
    UNSCHEDULE: Kind("unschedule", 0, _decode_unschedule, _describe_unschedule),
}
KIND_NAMES: Final = {kind: known.name for kind, known in KINDS.items()}
