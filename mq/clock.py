"""The time.  Two of them, in whole milliseconds since 1970:

store   for visibility deadlines and the times in the log.  Follows the monotonic
        clock from where the store was opened, so nothing that somebody does to the
        wall clock makes a delivery time out; never behind the last time in the log.
wall    for what people name: delays and dates.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mq.delivery.events import Now


class Clock:
    def __init__(self, custom: Callable[[], float] | None = None) -> None:
        """*custom*, seconds since 1970, stands for both; a test's clock, usually."""
        self._custom = custom
        self._offset_ms = 0
        self._latest_ms = 0

    def start(self, last_ms: int) -> None:
        """Begin store time: at the wall's, or at *last_ms*, the last time in the log, if that is later."""
        if self._custom is None:
            self._offset_ms = max(time.time_ns() // 1_000_000, last_ms) - time.monotonic_ns() // 1_000_000
        self._latest_ms = last_ms

    @property
    def offset_ms(self) -> int:
        """Store time less the monotonic clock's: the same for all who have the store open.  As a u64."""
        return self._offset_ms % (1 << 64)

    def join(self, offset_ms: int, last_ms: int) -> None:
        """Go by the store time of those who have the store open already."""
        if self._custom is None:
            self._offset_ms = offset_ms - (offset_ms >> 63 << 64)
        self._latest_ms = last_ms

    def passed(self, last_ms: int) -> None:
        """Somebody else has seen this time: one's own is not earlier."""
        self._latest_ms = max(self._latest_ms, last_ms)

    def store_ms(self) -> int:
        if self._custom is None:
            return time.monotonic_ns() // 1_000_000 + self._offset_ms
        self._latest_ms = max(self._latest_ms, int(self._custom() * 1000))
        return self._latest_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 if self._custom is None else int(self._custom() * 1000)

    def now(self) -> Now:
        if self._custom is None:  # flat: once a delivery
            return Now(time.monotonic_ns() // 1_000_000 + self._offset_ms, time.time_ns() // 1_000_000)
        return Now(self.store_ms(), self.wall_ms())
