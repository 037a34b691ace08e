"""What a queue gets of what is published to topics: a pattern, and the headers that a message needs."""

from __future__ import annotations

from typing import Final

import msgspec

OVERHEAD_BYTES: Final = 64  # of a SUBSCRIBE record, beside its texts


class Subscription(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pattern: str
    match: dict[str, str]
    bound_at: int  # behind this id the queue gets, or has got, all that fits
    position: int  # of its record

    @property
    def bytes(self) -> int:
        """How much of the log it keeps live, at most."""
        texts = (self.pattern, *self.match, *self.match.values())
        return sum(4 * len(each) + 5 for each in texts) + OVERHEAD_BYTES
