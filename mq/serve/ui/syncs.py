"""Syncs: how long the last fdatasyncs of this server took."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from mq import Broker

KEPT: Final = 512


class Summary(NamedTuple):
    """Of the last syncs; seconds."""

    syncs: int
    median: float
    p99: float
    longest: float


class Syncs:
    def __init__(self, broker: Broker) -> None:
        self._last: deque[float] = deque(maxlen=KEPT)  # whichever thread syncs appends
        broker._store.time_syncs(self._last.append)

    def summary(self) -> Summary | None:
        """None: there was none yet."""
        last = sorted(self._last.copy())
        if not last:
            return None
        return Summary(len(last), last[len(last) // 2], last[len(last) * 99 // 100], last[-1])
