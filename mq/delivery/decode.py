"""From the bytes of a record to an event: what the fold is told.

    recovery, following     decode(record)  →  State does it
    what is to be appended  check(draft)    →  append  →  State does it

Both go through the same decoders.  A draft that they refuse is refused before it is
appended: so whatever mistake an operation makes, it cannot write a record that the next
opening of the store refuses.  Nothing in this module changes anything.

An event is the arguments of the method of the fold that its kind names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from math import inf
from typing import Any, Final

import msgspec

from mq.errors import UsageError

from . import records
from .options import Declaration
from .records import Attributes, Sliced
from .runs import Stretch

Event = tuple[Any, ...]
Draft = tuple[int, int, int, bytes]  # kind, flags, queue number, payload

NUMBER_MAX: Final = 65_535  # of a queue: what a record has room for
STORAGE_BITS: Final = 0x0F  # of flags: they are not for events to set


class NotUnderstood(Exception):
    """The record says something that this mq does not know.  Its text says what."""


def decode(kind: int, flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    """The event in a record, whose payload is buffer[start:stop]; NotUnderstood if it makes no sense."""
    name = records.KIND_NAMES.get(kind)
    unknown = flags & records.UNKNOWN & ~records.KNOWN_FLAGS.get(kind, 0)
    if kind in records.BODIED and flags & records.BODY_BITS == records.BODY_BITS:
        unknown |= records.BODY_BITS
    if unknown and name:
        raise NotUnderstood(f"flags {unknown:#x} of a record of kind {name} are not known to this mq")
    try:
        if kind in records.BODIED:  # the body, which may be large, is not cut out
            return _BODIED[kind](flags, buffer, start, stop)
        if kind in _DECODERS:
            return _DECODERS[kind](flags, buffer[start:stop])
    except (msgspec.MsgspecError, struct.error, UnicodeDecodeError) as error:
        raise NotUnderstood(f"a record of kind {name} says what this mq does not know ({error})") from None
    raise NotUnderstood(f"records of kind {kind} are not known to this mq")


def refusals(stretch: Stretch) -> list[tuple[int, str]]:
    """Which of the records in *stretch* recovery refuses though they are intact: index, why.

    Those of storage are not looked at.  What nearly all are is looked at here, as `State.apply` does.
    """
    lsns, labels, lengths, buffer, origin, _ = stretch
    suspects = {label for label in set(labels) if not _is_plain(label & 0xFF, label >> 8 & 0xFF)}
    if not suspects:
        return []
    found: list[tuple[int, str]] = []
    for index, (lsn, label, length) in enumerate(zip(lsns, labels, lengths, strict=True)):
        if label not in suspects:
            continue
        kind, flags, start = label & 0xFF, label >> 8 & 0xFF, lsn - origin
        if kind == records.ACK and length == 12 and not flags & records.UNKNOWN:
            continue
        if kind == records.DELIVER and length == 16 and not flags & records.UNKNOWN_TO_DELIVER:
            continue
        try:
            decode(kind, flags, buffer, start, start + length)
        except NotUnderstood as error:
            found.append((index, f"intact, but refused: {error}"))
    return found


def _is_plain(kind: int, flags: int) -> bool:
    return kind < records.DECLARE or (kind == records.PUBLISH and flags in records.PLAIN_FLAGS)


def check(draft: Draft) -> Event:
    """The event in a record that is to be appended; UsageError if it must not be.

    No caller should ever see that error: what callers give is checked before.  It stands
    between a mistake of mq and a log that cannot be opened any more.
    """
    kind, flags, number, payload = draft
    try:
        event = decode(kind, flags, payload, 0, len(payload))
        if flags & STORAGE_BITS or not 0 < number <= NUMBER_MAX:
            raise NotUnderstood(f"flags {flags:#x} and queue {number} are not those of an event")
        if kind == records.DECLARE:
            _check_durations(event[0])
    except NotUnderstood as error:
        raise UsageError(
            "nothing was done, because the log could not be read again afterwards; this is a bug of mq,"
            f" please report it: {error}"
        ) from None
    return event


def _check_durations(declaration: Declaration) -> None:
    """Stricter than decoding: no NaN, and no infinity, of which no time can be calculated."""
    durations = (
        declaration.visibility_timeout, declaration.dedup_window, declaration.ttl or 0,
        declaration.delete_when_idle or 0, declaration.delete_when_abandoned or 0, *declaration.backoff,
    )  # fmt: skip
    if not all(0 <= each < inf for each in durations):
        raise NotUnderstood(f"the options of queue {declaration.name!r} hold a duration that is none")


# ── one decoder for each kind ──────────────────────────────────────────────────────


def _publish(flags: int, buffer: Sliced, start: int, stop: int) -> tuple[int, Attributes]:
    return stop - start, records.attributes_in(flags, buffer, start, stop)


def _relocate(flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    if stop - start < records.RELOCATE_PAYLOAD.size:
        raise struct.error("it is too short")
    begin = start + records.RELOCATE_PAYLOAD.size
    id, _created, attempts, place, receipt, when = records.RELOCATE_PAYLOAD.unpack(buffer[start:begin])
    if place > records.RESTING:
        raise struct.error(f"there is no place {place}")
    changes, end = records.changes_in(flags, buffer, begin, stop)
    attributes = records.attributes_in(flags, buffer, begin, end)
    return id, end - begin, attempts, place, receipt, when, attributes, changes


def _declare(flags: int, payload: bytes) -> tuple[Declaration]:
    return (records.decode_declaration(payload),)


def _deliver(flags: int, payload: bytes) -> tuple[list[int], int]:
    if len(payload) < 16 or len(payload) % 8:
        raise struct.error(f"{len(payload)} bytes are no ids and no deadline")
    return records.deliveries_of(payload, 0, len(payload))


def _ack(flags: int, payload: bytes) -> Event:
    return records.acks_of(payload)


def _nack(flags: int, payload: bytes) -> Event:
    return records.nack_of(flags, payload, 0, len(payload))


def _purge(flags: int, payload: bytes) -> Event:
    (cutoff,) = records.PURGE_PAYLOAD.unpack_from(payload)
    return cutoff, records.KEPT_PAYLOAD.iter_unpack(payload[records.PURGE_PAYLOAD.size :])


def _move(flags: int, payload: bytes) -> tuple[records.Move]:
    return (records.decode_move(payload, 0, len(payload)),)


def _drop(flags: int, payload: bytes) -> Event:
    return (records.DROP_PAYLOAD.iter_unpack(payload),)


def _delete(flags: int, payload: bytes) -> Event:
    return ()


def _dedup(flags: int, payload: bytes) -> tuple[int, int, str]:
    id, until = records.DEDUP_PAYLOAD.unpack_from(payload)
    return id, until, payload[records.DEDUP_PAYLOAD.size :].decode()


def _numbers(layout: struct.Struct) -> Callable[[int, bytes], Event]:
    return lambda flags, payload: layout.unpack_from(payload)


_BODIED: Final[dict[int, Callable[[int, Sliced, int, int], Event]]] = {
    records.PUBLISH: _publish,
    records.RELOCATE: _relocate,
}
_DECODERS: Final[dict[int, Callable[[int, bytes], Event]]] = {
    records.DECLARE: _declare,
    records.DELIVER: _deliver,
    records.ACK: _ack,
    records.NACK: _nack,
    records.RELEASE: _numbers(records.RELEASE_PAYLOAD),
    records.EXTEND: _numbers(records.EXTEND_PAYLOAD),
    records.PURGE: _purge,
    records.MOVE: _move,
    records.DROP: _drop,
    records.RESCHEDULE: _numbers(records.RESCHEDULE_PAYLOAD),
    records.DELETE: _delete,
    records.DEDUP: _dedup,
    records.RENEW: _numbers(records.RENEW_PAYLOAD),
}
