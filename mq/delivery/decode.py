"""What is refused: records that make no sense, found before they are applied, or appended.

    recovery, following     decode(record)  →  the fold does it
    what is to be appended  check(draft)    →  append  →  the fold does it

Both go through the same decoders.  A draft that they refuse is refused before it is
appended: so whatever mistake an operation makes, it cannot write a record that the next
opening of the store refuses.  Nothing in this module changes anything.
"""

from __future__ import annotations

import struct
from math import inf
from typing import Final

import msgspec

from mq.errors import UsageError

from . import records
from .attributes import Sliced
from .options import Declaration
from .records import Draft, Event
from .runs import PUBLISHES, UNCHAINED, Stretch, is_plain

NUMBER_MAX: Final = 65_535  # of a queue: what a record has room for
STORAGE_BITS: Final = 0x0F  # of flags: they are not for this layer to set


class NotUnderstood(Exception):
    """The record says something that this mq does not know.  Its text says what."""


def decode(kind: int, flags: int, buffer: Sliced, start: int, stop: int) -> Event:
    """The event in a record, whose payload is buffer[start:stop]; NotUnderstood if it makes no sense."""
    known = records.KINDS.get(kind)
    if known is None:
        raise NotUnderstood(f"records of kind {kind} are not known to this mq")
    unknown = flags & records.UNKNOWN & ~known.flags
    if kind in records.BODIED and flags & records.BODY_BITS == records.BODY_BITS:
        unknown |= records.BODY_BITS
    if unknown:
        raise NotUnderstood(f"flags {unknown:#x} of a record of kind {known.name} are not known to this mq")
    try:
        return known.decode(flags, buffer, start, stop)
    except (msgspec.MsgspecError, struct.error, UnicodeDecodeError) as error:
        raise NotUnderstood(
            f"a record of kind {known.name} says what this mq does not know ({error})"
        ) from None


def refusals(stretch: Stretch) -> list[tuple[int, str]]:
    """Which of the records in *stretch* recovery refuses though they are intact: index, why.

    Those of storage are not looked at.
    """
    lsns, labels, lengths, buffer, origin, _ = stretch
    suspects = {
        each for each in set(labels) if each & 0xFF >= records.DECLARE and each & UNCHAINED not in PUBLISHES
    }
    if not suspects:
        return []
    found: list[tuple[int, str]] = []
    for index, (lsn, label, length) in enumerate(zip(lsns, labels, lengths, strict=True)):
        if label not in suspects or is_plain(label, length):
            continue
        start = lsn - origin
        try:
            decode(label & 0xFF, label >> 8 & 0xFF, buffer, start, start + length)
        except NotUnderstood as error:
            found.append((index, f"intact, but refused: {error}"))
    return found


def check(draft: Draft) -> Event:
    """The event in a record that is to be appended; UsageError if it must not be.

    No caller should ever see that error: what callers give is checked before.  It stands
    between a mistake of mq and a log that cannot be opened any more.
    """
    kind, flags, number, payload = draft
    try:
        event = decode(kind, flags, payload, 0, len(payload))
        is_number = number > 0 if kind not in records.OF_THE_STORE else not number
        if flags & STORAGE_BITS or not (is_number or kind in records.OF_ANY) or number > NUMBER_MAX:
            raise NotUnderstood(f"flags {flags:#x} and queue {number} are not those of an event")
        if kind == records.DECLARE:
            if bool(event[0].name) != bool(number):
                raise NotUnderstood(f"queue {number} cannot be called {event[0].name!r}")
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
        declaration.delete_when_idle or 0, declaration.delete_when_abandoned or 0, declaration.delay,
        declaration.retain_for or 0, *declaration.backoff,
    )  # fmt: skip
    if not all(0 <= each < inf for each in durations):
        raise NotUnderstood(f"the options of queue {declaration.name!r} hold a duration that is none")
