"""What is kept of a message that is more than an id that waits.

Nothing here is changed, only replaced: a checkpoint writes it out beside other work.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .attributes import Attributes, Changes, Failed

FAILURES_MAX: Final = 5  # kept of one message: the first, and the last four


class Traits(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What sets a message apart, wherever it is."""

    priority: int = 0
    group: str | None = None
    expires: int = 0  # wall time, ms; 0: never
    origin: str | None = None  # the queue that it died in
    failures: tuple[Failed, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the priority says all."""
        return self.group is None and not self.expires and self.origin is None and not self.failures


LEVELS: Final = tuple(Traits(priority) for priority in range(256))
PLAIN: Final = LEVELS[0]


class Flight(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery that is not settled.  Deadline in store time, ms."""

    receipt: int  # the position of its DELIVER record; of the n-th message there, n more
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


def traits_of(said: Attributes, changes: Changes | None = None) -> Traits:
    expires = changes.expires if changes else said.expires
    if said.group is None and not expires and changes is None:
        return LEVELS[said.priority]
    if changes is None:
        return Traits(said.priority, said.group, expires)
    return Traits(said.priority, said.group, expires, changes.origin, changes.failures)


def changes_in(said: Attributes, traits: Traits) -> Changes | None:
    """What *traits* say that the message's attributes do not."""
    if traits.expires == said.expires and traits.origin is None and not traits.failures:
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
