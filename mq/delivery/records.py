"""What a record means to the delivery layer: its kind, and what its payload holds.

    kind        payload
    ──────────  ──────────────────────────────────────────────────────────────
    DECLARE     msgpack: name, all options, and the totals so far
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
    RENEW       until when a queue that goes when nobody uses it stays

A message's id is the position of its PUBLISH record.  The receipt of a delivery is the position
of its DELIVER record; of the n-th message there, n bytes further in.  Deadlines and the ends of dedup
windows are milliseconds of store time, and so is the due of a backoff; other dues, and expiries, are
milliseconds of wall time, all since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, pack, unpack, unpack_from
from struct import error as StructError
from typing import Annotated, Final, Protocol

import msgspec

from .options import Declaration

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

KIND_NAMES: Final = {
    1: "fence", 2: "closed", 3: "head", 4: "lost", 5: "clock", DECLARE: "declare", PUBLISH: "publish",
    DELIVER: "deliver", ACK: "ack", NACK: "nack", RELEASE: "release",
    EXTEND: "extend", PURGE: "purge", RELOCATE: "relocate", MOVE: "move", DROP: "drop",
    RESCHEDULE: "reschedule", DELETE: "delete", DEDUP: "dedup", RENEW: "renew",
}  # fmt: skip

# Bits of the flags of PUBLISH and RELOCATE: how the body was given, and what follows it.
BYTES: Final = 0x00
TEXT: Final = 0x10
MSGPACK: Final = 0x20
BODY_BITS: Final = 0x30
ATTRIBUTED: Final = 0x40  # the body is followed by attributes and their length
CHANGED: Final = 0x80  # of RELOCATE: and they by changes, and their length

# A bit of a DELIVER record's flags: the delivery before this one had timed out.
TIMED_OUT: Final = 0x10
# A bit of a NACK record's flags: it says when.  Those of old did not.
TIMED: Final = 0x10
# Another one: the due is in store time, for a backoff decided it.  Those of old did not have it.
RESTS: Final = 0x20
# Bits of a MOVE record's flags.
DIED: Final = 0x10  # to the dead letters; else back from them, as if it had never been tried
FAILED: Final = 0x20  # by an attempt that failed
# A bit of the flags of MOVE and DROP.
EXPIRED: Final = 0x40
# A bit of a DROP record's flags: there were too many.
OVERFLOWED: Final = 0x80

# The bits of flags that mean something, by kind: others are refused by name.
KNOWN_FLAGS: Final = {
    PUBLISH: BODY_BITS | ATTRIBUTED, DELIVER: TIMED_OUT, NACK: TIMED | RESTS,
    RELOCATE: BODY_BITS | ATTRIBUTED | CHANGED, MOVE: DIED | FAILED | EXPIRED, DROP: EXPIRED | OVERFLOWED,
}  # fmt: skip

UNKNOWN: Final = 0xFE  # bits of flags that mean nothing, unless KNOWN_FLAGS has them
UNKNOWN_TO_DELIVER: Final = UNKNOWN & ~TIMED_OUT
PLAIN_FLAGS: Final = frozenset(body | chained for body in (BYTES, TEXT, MSGPACK) for chained in (0, 1))
BODIED: Final = frozenset({PUBLISH, RELOCATE})  # kinds that hold a body

DELIVER_PAYLOAD: Final = Struct("<QQ")
ACK_PAYLOAD: Final = Struct("<QI")
RUN_MAX: Final = 128  # messages in one record, so that damage to it concerns no more
NACK_PAYLOAD: Final = Struct("<QQ")
TIMED_NACK_PAYLOAD: Final = Struct("<QQQ")
RELEASE_PAYLOAD: Final = Struct("<Q")
EXTEND_PAYLOAD: Final = Struct("<QQ")
PURGE_PAYLOAD: Final = Struct("<Q")
KEPT_PAYLOAD: Final = Struct("<QI")
RELOCATE_PAYLOAD: Final = Struct("<QQIBQQ")
MOVE_PAYLOAD: Final = Struct("<QIHQQB")  # id, size, to, time, expires, length of the origin's name
DROP_PAYLOAD: Final = Struct("<QI")
RESCHEDULE_PAYLOAD: Final = Struct("<QQ")
DEDUP_PAYLOAD: Final = Struct("<QQ")
RENEW_PAYLOAD: Final = Struct("<Q")
TRAILER_LENGTH: Final = Struct("<I")

# Places of a relocated message.
WAITING: Final = 0
DELAYED: Final = 1
IN_FLIGHT: Final = 2
RESTING: Final = 3  # delayed by a backoff: the due is in store time

DECLARATION_BYTES: Final = 512  # what a queue itself counts in the log: more than a declaration takes
MESSAGE_OVERHEAD_BYTES: Final = 96  # what a message costs in the log beside its body, moved and settled once

REASON_BYTES_MAX: Final = 1024
CHANGES_BYTES_MAX: Final = 64 << 10  # five failures with a reason each take 6 KiB at most
TIMEOUT_REASON: Final = "the visibility timeout passed"


def encode_deliveries(ids: Sequence[int], deadline: int) -> bytes:
    """The payload of a DELIVER record: for RUN_MAX ids at most."""
    return pack(f"<{len(ids) + 1}Q", ids[0], deadline, *ids[1:])


def deliveries_of(buffer: bytes, start: int, stop: int) -> tuple[list[int], int]:
    """The ids and the deadline in a DELIVER record."""
    id, deadline, *others = unpack_from(f"<{(stop - start) // 8}Q", buffer, start)
    return [id, *others], deadline


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


decode_declaration: Final = msgspec.msgpack.Decoder(Declaration).decode


def encode_declaration(declaration: Declaration) -> bytes:
    """Only what is not as by default, so that most take few bytes."""
    return msgspec.msgpack.encode(msgspec.to_builtins(declaration))


# What the indexes have room for: decoding refuses other numbers.
Priority = Annotated[int, msgspec.Meta(ge=0, le=255)]
Instant = Annotated[int, msgspec.Meta(ge=0)]  # ms since 1970


class Attributes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a publish said beside the body.  Stored only if it said anything."""

    priority: Priority = msgspec.field(default=0, name="p")
    due: Instant = msgspec.field(default=0, name="d")  # wall time; 0: at once
    expires: Instant = msgspec.field(default=0, name="e")  # wall time; 0: never
    group: str | None = msgspec.field(default=None, name="g")
    headers: dict[str, str] = msgspec.field(default_factory=dict, name="h")
    dedup_id: str | None = msgspec.field(default=None, name="k")
    dedup_until: Instant = msgspec.field(default=0, name="u")  # store time


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One failed attempt.  Store time, ms."""

    at: int
    attempt: int
    reason: str


class Changes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a message has become that its attributes do not say."""

    expires: Instant = msgspec.field(default=0, name="e")  # instead of what the attributes say
    origin: str | None = msgspec.field(default=None, name="o")
    failures: tuple[Failed, ...] = msgspec.field(default=(), name="f")


NO_ATTRIBUTES: Final = Attributes()

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_attributes: Final = msgspec.msgpack.Decoder(Attributes).decode
_decode_changes: Final = msgspec.msgpack.Decoder(Changes).decode


class Sliced(Protocol):
    """Bytes, or what is not held in memory and gives bytes when it is sliced."""

    def __getitem__(self, part: slice, /) -> bytes: ...


def trailer(said: Attributes | Changes) -> bytes:
    """*said*, and its length, to be put behind what it is about."""
    data = _encode(said)
    return data + TRAILER_LENGTH.pack(len(data))


def _trailer_at(buffer: Sliced, start: int, stop: int) -> int:
    """Where the trailer at the end of buffer[start:stop] begins."""
    if stop - start < TRAILER_LENGTH.size:
        raise StructError("it is too short for a trailer")
    (length,) = TRAILER_LENGTH.unpack(buffer[stop - TRAILER_LENGTH.size : stop])
    begin: int = stop - TRAILER_LENGTH.size - length
    if begin < start:
        raise StructError(f"a trailer of {length} bytes is longer than what it is part of")
    return begin


def attributes_in(flags: int, buffer: Sliced, start: int, stop: int) -> Attributes:
    """The attributes of what was published, which is buffer[start:stop]."""
    if not flags & ATTRIBUTED:
        return NO_ATTRIBUTES
    begin = _trailer_at(buffer, start, stop)
    return _decode_attributes(buffer[begin : stop - TRAILER_LENGTH.size])


def changes_in(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[Changes | None, int]:
    """What a RELOCATE record says that changed, and where what was published ends."""
    if not flags & CHANGED:
        return None, stop
    begin = _trailer_at(buffer, start, stop)
    return _decode_changes(buffer[begin : stop - TRAILER_LENGTH.size]), begin


def attributes_of(flags: int, published: bytes) -> tuple[Attributes, bytes]:
    """The attributes, and the body, of what was published."""
    if not flags & ATTRIBUTED:
        return NO_ATTRIBUTES, published
    return attributes_in(flags, published, 0, len(published)), _without_trailer(published)


def _without_trailer(payload: bytes) -> bytes:
    return payload[: _trailer_at(payload, 0, len(payload))]


def published_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and what was published, wherever it stands now."""
    if kind == RELOCATE:
        created_ms = RELOCATE_PAYLOAD.unpack_from(payload)[1]
        payload = payload[RELOCATE_PAYLOAD.size :]
        if flags & CHANGED:
            payload = _without_trailer(payload)
    return created_ms, payload


def published_size(kind: int, flags: int, length: int, tail: Callable[[int], bytes]) -> int | None:
    """How long what was published is, in a payload of *length* bytes of which *tail* gives the last ones.

    None if it cannot be so.
    """
    if kind == PUBLISH:
        return length
    if kind != RELOCATE:
        return None
    size = length - RELOCATE_PAYLOAD.size
    if flags & CHANGED:
        try:
            (cut,) = TRAILER_LENGTH.unpack(tail(TRAILER_LENGTH.size))
            size -= cut + TRAILER_LENGTH.size
            if cut > CHANGES_BYTES_MAX or size < 0:
                return None
            _decode_changes(tail(cut + TRAILER_LENGTH.size)[:cut])
        except (StructError, msgspec.MsgspecError):
            return None
    return size if size >= 0 else None


def body_of(kind: int, flags: int, created_ms: int, payload: bytes) -> tuple[int, bytes]:
    """When the message was created, and its body, wherever it stands now."""
    created_ms, published = published_of(kind, flags, created_ms, payload)
    return created_ms, _without_trailer(published) if flags & ATTRIBUTED else published


def message_of(kind: int, position: int, payload: bytes) -> int | None:
    """The message whose body the record holds; None if it holds none."""
    if kind == PUBLISH:
        return position
    if kind == RELOCATE and len(payload) >= RELOCATE_PAYLOAD.size:
        return int(RELOCATE_PAYLOAD.unpack_from(payload)[0])
    return None


def encode_reason(reason: str) -> bytes:
    """As UTF-8, cut where it gets too long to keep."""
    return reason.encode(errors="replace")[:REASON_BYTES_MAX]


def decode_reason(data: bytes) -> str:
    """It may have been cut inside a character."""
    return data.decode(errors="ignore")


def nack_of(flags: int, buffer: bytes, start: int, stop: int) -> tuple[int, int, int, str, bool]:
    """Id, due, time (0 if it does not say) and reason of a NACK record; whether the due is in store time."""
    if flags & TIMED:
        id, due, at = TIMED_NACK_PAYLOAD.unpack_from(buffer, start)
        start += TIMED_NACK_PAYLOAD.size
    else:
        (id, due), at = NACK_PAYLOAD.unpack_from(buffer, start), 0
        start += NACK_PAYLOAD.size
    return id, due, at, decode_reason(buffer[start:stop]), bool(flags & RESTS)


class Move(msgspec.Struct, frozen=True, gc=False):
    """What a MOVE record says."""

    id: int
    size: int
    to: int
    at: int  # store time
    expires: int  # wall time; 0: never
    origin: str = ""
    reason: str = ""


def encode_move(said: Move) -> bytes:
    origin = said.origin.encode()
    head = MOVE_PAYLOAD.pack(said.id, said.size, said.to, said.at, said.expires, len(origin))
    return head + origin + encode_reason(said.reason)


def decode_move(buffer: bytes, start: int, stop: int) -> Move:
    id, size, to, at, expires, length = MOVE_PAYLOAD.unpack_from(buffer, start)
    cut = start + MOVE_PAYLOAD.size
    if cut + length > stop:
        raise StructError(f"the name of {length} bytes is longer than the record")
    origin, reason = buffer[cut : cut + length].decode(), decode_reason(buffer[cut + length : stop])
    return Move(id, size, to, at, expires, origin, reason)
