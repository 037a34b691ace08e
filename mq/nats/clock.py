"""Store time is the stream's: what the servers stamp on messages, carried forward by the monotonic clock.

The clocks of the machines that use a store may be hours apart.  None of them is asked: neither for visibility
timeouts, nor for delays and dates, which follow the servers' clocks.
"""

from __future__ import annotations

import time

from mq.delivery.now import Now
from mq.engine.clock import Clock


class StreamClock(Clock):
    def start_at(self, now_ms: int, last_ms: int) -> None:
        """Begin store time: it is *now_ms* to the servers, and *last_ms* is the last time in the log."""
        self._latest_ms = last_ms
        self._offset_ms = max(now_ms, last_ms) - time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return self.store_ms() if self._custom is None else self._custom_ms()

    def now(self) -> Now:
        if self._custom is None:
            ms = time.monotonic_ns() // 1_000_000 + self._offset_ms
            return Now(ms, ms)
        return Now(self.store_ms(), self.wall_ms())
