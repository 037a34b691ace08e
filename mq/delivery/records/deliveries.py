"""Records of what becomes of a message: delivered, settled, dropped, moved to the dead letters and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct, pack, unpack, unpack_from
from struct import error as StructError
from typing import Final

import msgspec

from ..attributes import Sliced
from .kinds import (
    ACK,
    DELIVER,
    DROP,
    EXPIRED,
    EXTEND,
    MOVE,
    NACK,
    PURGE,
    RELEASE,
    RESCHEDULE,
    RUN_MAX,
    UNKNOWN,
    Draft,
    Event,
    Facts,
    Kind,
    Times,
    numbers,
)

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


# ── RELEASE, EXTEND, RESCHEDULE ────────────────────────────────────────────────────

RELEASE_PAYLOAD: Final = Struct("<Q")
EXTEND_PAYLOAD: Final = Struct("<QQ")
RESCHEDULE_PAYLOAD: Final = Struct("<QQ")


def release(number: int, id: int) -> Draft:
    return RELEASE, 0, number, RELEASE_PAYLOAD.pack(id)


def extend(number: int, id: int, deadline: int) -> Draft:
    return EXTEND, 0, number, EXTEND_PAYLOAD.pack(id, deadline)


def reschedule(number: int, id: int, due: int) -> Draft:
    """*due*: wall time; 0: now."""
    return RESCHEDULE, 0, number, RESCHEDULE_PAYLOAD.pack(id, due)


def _describe_release(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0]}


def _describe_extend(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0], "deadline": at.store(event[1])}


def _describe_reschedule(flags: int, event: Event, at: Times) -> Facts:
    return {"message": event[0], "due": at.wall(event[1]) if event[1] else "now"}


# ── PURGE, DROP ────────────────────────────────────────────────────────────────────

PURGE_PAYLOAD: Final = Struct("<Q")  # cutoff
ALL_IN_FLIGHT: Final = (1 << 64) - 1  # a cutoff behind every deadline
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
    cutoff, kept = event
    found: Facts = {"in_flight": True} if cutoff == ALL_IN_FLIGHT else {"cutoff": at.store(cutoff)}
    return found | {"kept": [id for id, _ in kept]}


def _describe_drop(flags: int, event: tuple[Pairs], at: Times) -> Facts:
    why = {EXPIRED: "expired", OVERFLOWED: "too many"}.get(flags & (EXPIRED | OVERFLOWED), "cancelled")
    return {"messages": [id for id, _ in event[0]], "why": "dead" if flags & DIED else why}


# ── MOVE ───────────────────────────────────────────────────────────────────────────

MOVE_PAYLOAD: Final = Struct("<QIHQQB")  # id, size, to, time, expires, length of the origin's name
DIED: Final = 0x10  # a flag: to the dead letters; else back from them, as if it had never been tried
WHOLE: Final = 0x80  # a flag: neither; as it is, with its attempts, due, failures and time to live
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
    facts: Facts = {"message": event[0].id, "to": event[0].to}
    facts |= {"whole": True} if flags & WHOLE else {"dead": bool(flags & DIED)}
    return facts | ({"reason": event[0].reason} if event[0].reason else {})


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    DELIVER: Kind("deliver", TIMED_OUT, _decode_deliver, _describe_deliver),
    ACK: Kind("ack", 0, _decode_ack, _describe_ack),
    NACK: Kind("nack", TIMED | BY_BACKOFF, _decode_nack, _describe_nack),
    RELEASE: Kind("release", 0, numbers(RELEASE_PAYLOAD), _describe_release),
    EXTEND: Kind("extend", 0, numbers(EXTEND_PAYLOAD), _describe_extend),
    RESCHEDULE: Kind("reschedule", 0, numbers(RESCHEDULE_PAYLOAD), _describe_reschedule),
    PURGE: Kind("purge", 0, _decode_purge, _describe_purge),
    DROP: Kind("drop", DIED | FAILED | EXPIRED | OVERFLOWED, _decode_drop, _describe_drop),
    MOVE: Kind("move", DIED | FAILED | EXPIRED | WHOLE, _decode_move, _describe_move),
}
