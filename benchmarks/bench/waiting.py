"""A bell: how receivers wait for peers that have no blocking receive of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

POLL_SECONDS = 0.001  # between two looks, where other processes publish too


class Bell:
    """Costs a publisher one look at `waiting` as long as no receiver waits.

    A receiver counts itself before it looks for the last time, so either that look finds the message, or
    the publisher sees the receiver and rings.
    """

    def __init__(self, *, shared: bool) -> None:
        self.waiting = 0
        self._poll = POLL_SECONDS if shared else float("inf")
        self._condition = threading.Condition()

    def ring(self) -> None:
        with self._condition:
            self._condition.notify()

    def wait(self, take: Callable[[], Any], timeout: float) -> Any:
        """What *take* returns once that is not None; None after *timeout* seconds."""
        until = time.monotonic() + timeout
        with self._condition:
            self.waiting += 1
            try:
                while (message := take()) is None:
                    left = until - time.monotonic()
                    if left <= 0:
                        return None
                    self._condition.wait(min(left, self._poll))
                return message
            finally:
                self.waiting -= 1
