"""Records of schedules, and of their ticks."""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

import msgspec

from ..attributes import TRAILER_LENGTH, Sliced, cut_trailer, trailer_at
from ..schedules import Schedule
from .kinds import SCHEDULE, TICK, UNSCHEDULE, Draft, Facts, Kind, Times
from .messages import BODY_BITS

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


# ── the kinds that are here ────────────────────────────────────────────────────────

KINDS: Final = {
    SCHEDULE: Kind("schedule", BODY_BITS, _decode_schedule, _describe_schedule),
    TICK: Kind("tick", 0, _decode_tick, _describe_tick),
    UNSCHEDULE: Kind("unschedule", 0, _decode_unschedule, _describe_unschedule),
}
