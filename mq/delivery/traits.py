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

    @property
    def plain(self) -> bool:
        """Whether it has nothing but a priority."""
        return self.group is None and not self.expires and self.origin is None and not self.failures


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


def traits_of(attributes: Attributes, changes: Changes | None = None) -> Traits:
    expires = changes.expires if changes else attributes.expires
    if attributes.group is None and not expires and changes is None:
        return LEVELS[attributes.priority]
    if changes is None:
        return Traits(attributes.priority, attributes.group, expires)
    return Traits(attributes.priority, attributes.group, expires, changes.origin, changes.failures)


def expiring(traits: Traits, expires: int) -> Traits:
    """*traits* of a message that has no history, with another time to live."""
    if traits.group is None and not expires:
        return LEVELS[traits.priority]
    return Traits(traits.priority, traits.group, expires)


def changes_in(attributes: Attributes, traits: Traits) -> Changes | None:
    """What *traits* hold that the message's attributes do not; None if that is nothing."""
    if traits.expires == attributes.expires and traits.origin is None and not traits.failures:
        return None
    return Changes(traits.expires, traits.origin, traits.failures)


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
