"""The time, as the caller gives it: delivery reads no clock."""

from __future__ import annotations

import msgspec


class Now(msgspec.Struct, frozen=True, gc=False):
    """The time, in milliseconds since 1970.  `store` never goes back; `wall` may."""

    store: int
    wall: int
