"""The kinds of records by number, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from ..attributes import Sliced

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


def numbers(layout: Struct) -> Callable[[int, Sliced, int, int], Event]:
    """The `Kind.decode` of a payload that is nothing but numbers."""
    return lambda flags, buffer, start, stop: layout.unpack_from(buffer[start:stop])
