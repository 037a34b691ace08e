"""The time.  Two of them, in whole milliseconds since 1970:

store   for visibility deadlines and the times in the log.  Follows the monotonic
        clock from where the store was opened, so nothing that somebody does to the
        wall clock makes a delivery time out; never behind the last time in the log.
wall    for what people name: delays and dates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mq import exact
from mq.delivery.events import Now
from mq.errors import UsageError

CLOCK_SECONDS_MAX: Final = 253_402_300_800  # the year 10000: with any duration added it fits into the log


class Clock:
    def __init__(self, custom: Callable[[], float] | None = None) -> None:
        """*custom*, seconds since 1970, stands for both; a test's clock, usually."""
        self._custom = custom
        self._offset_ms = 0
        self._latest_ms = 0
        if custom is not None:
            self._custom_ms()  # one that is none is refused before anything is made

    def _custom_ms(self) -> int:
        """What the caller's clock says; UsageError if that is no time.  What it raises, the caller gets."""
        assert self._custom is not None
        seconds = exact.number("clock()", self._custom(), "number of seconds since 1970")
        if not 0 <= seconds <= CLOCK_SECONDS_MAX:
            raise UsageError(
                f"clock() is from 0 to {CLOCK_SECONDS_MAX} seconds since 1970, not {exact.shown(seconds)}"
            )
        return int(seconds * 1000)

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
        self._latest_ms = max(self._latest_ms, self._custom_ms())
        return self._latest_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 if self._custom is None else self._custom_ms()

    def now(self) -> Now:
        if self._custom is None:  # flat: once a delivery
            return Now(time.monotonic_ns() // 1_000_000 + self._offset_ms, time.time_ns() // 1_000_000)
        return Now(self.store_ms(), self.wall_ms())

    def timer(self, seconds: float) -> Callable[[], bool]:
        """Whether so many seconds are over by now.  With a custom clock, which may stand still, never."""
        if self._custom is not None:
            return lambda: False
        until = time.monotonic() + seconds
        return lambda: time.monotonic() >= until
