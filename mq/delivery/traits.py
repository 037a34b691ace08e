"""What is kept of a message that is more than an id that waits.

An entry is never changed, only replaced: a checkpoint writes it out while the queue goes on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .attributes import Attributes, Changes, Failed

FAILURES_MAX: Final = 5  # kept of one message: the first, and the last four


class Traits(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What makes a message more than an id and a body."""

    priority: int = 0
    group: str | None = None
    expires: int = 0  # wall time, ms; 0: never
    origin: str | None = None  # the queue that it died in
    failures: tuple[Failed, ...] = ()
    # The receipt of its first delivery in this queue, once that is over; 0: none was, or it is in force.
    # Only the DELIVER record has the time of that.  It stands behind the message's record, so it goes with a
    # segment only when the message was written again: then `Changes.received` has receipt and time.
    first: int = 0

    @property
    def plain(self) -> bool:
        """Whether it has nothing but a priority."""
        return (
            self.group is None and not self.expires and self.origin is None
            and not self.failures and not self.first
        )  # fmt: skip


LEVELS: Final = tuple(Traits(priority) for priority in range(256))
PLAIN: Final = LEVELS[0]


class Flight(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery that is not settled.  Deadline in store time, ms."""

    receipt: int  # the position of its DELIVER record, plus n for the n-th message of that record
    deadline: int
    attempts: int
    position: int  # of the record that holds the body
    traits: Traits = PLAIN


class Delayed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message that waits: delayed, or tried before, or in a group, or about to expire.

    Milliseconds; 0 is at once.  A delay or a date that a caller named is `due`.
    """

    due: int  # wall time
    attempts: int
    position: int
    traits: Traits = PLAIN
    backoff_until: int = 0  # store time


def traits_of(attributes: Attributes, changes: Changes | None = None, receipt: int = 0) -> Traits:
    """*receipt*: of the delivery that is in force."""
    expires = changes.expires if changes else attributes.expires
    if attributes.group is None and not expires and changes is None:
        return LEVELS[attributes.priority]
    if changes is None:
        return Traits(attributes.priority, attributes.group, expires)
    first = changes.received[0] if changes.received else 0
    return shared(
        Traits(
            attributes.priority, attributes.group, expires, changes.origin, changes.failures,
            0 if first == receipt else first,
        )
    )  # fmt: skip


def shared(traits: Traits) -> Traits:
    """*traits*, or those that all messages have which are nothing but a priority."""
    return LEVELS[traits.priority] if traits.plain else traits


def come_back(flight: Flight) -> Traits:
    """The traits of a message whose delivery is over: it knows the first one."""
    traits = flight.traits
    return traits if traits.first else msgspec.structs.replace(traits, first=flight.receipt)


def expiring(traits: Traits, expires: int) -> Traits:
    """*traits* of a message that has no history, with another time to live."""
    if traits.group is None and not expires:
        return LEVELS[traits.priority]
    return Traits(traits.priority, traits.group, expires)


def changes_in(
    attributes: Attributes, traits: Traits, received: tuple[int, int] | None = None
) -> Changes | None:  # fmt: skip
    """What *traits* hold that the message's attributes do not; None if that is nothing.

    *received*: the receipt of its first delivery, and the wall time of that.
    """
    is_as_said = traits.expires == attributes.expires and traits.origin is None and not traits.failures
    if is_as_said and received is None:
        return None
    return Changes(traits.expires, traits.origin, traits.failures, received)


def with_failure(traits: Traits, failure: Failed) -> Traits:
    """One failure more: the first and the last few are kept."""
    kept = traits.failures
    if len(kept) >= FAILURES_MAX:
        kept = (kept[0], *kept[2 - FAILURES_MAX :])
    return msgspec.structs.replace(traits, failures=(*kept, failure))


def weight(traits: Traits) -> int:
    """Bytes that the message's history adds to what has to be kept of it in the log."""
    size = len(traits.origin) if traits.origin else 0
    for each in traits.failures:
        size += len(each.reason) + 16
    return size
