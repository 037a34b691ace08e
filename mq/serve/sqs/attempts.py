"""ReceiveRequestAttemptId: a receive that is tried again gets what the first try got.

In memory: a server that was started again does not know the attempts from before, nor those whose bodies
were too much to keep, and the messages come again after their visibility timeout.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import Any, Final

from mq import AsyncDelivery

WINDOW_SECONDS: Final = 300.0
KNOWN_MAX: Final = 10_000
BYTES_MAX: Final = 64 << 20  # of the bodies of all of them

Key = tuple[str, str]  # the queue's name, the attempt's id


class Attempts:
    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[float, list[AsyncDelivery[Any]]]] = OrderedDict()
        self._bytes = 0

    def remember(self, key: Key, taken: list[AsyncDelivery[Any]]) -> None:
        self.recall(key)
        self._known[key] = time.monotonic() + WINDOW_SECONDS, taken
        self._bytes += _bytes_of(taken)
        while len(self._known) > KNOWN_MAX or self._bytes > BYTES_MAX or self._is_first_over():
            self.recall(next(iter(self._known)))

    def recall(self, key: Key) -> list[AsyncDelivery[Any]]:
        """What that attempt took, if it was made within the last five minutes; it is forgotten."""
        until, taken = self._known.pop(key, (0.0, []))
        self._bytes -= _bytes_of(taken)
        return taken if time.monotonic() < until else []

    def _is_first_over(self) -> bool:
        until, _ = next(iter(self._known.values()), (math.inf, []))
        return time.monotonic() >= until


def _bytes_of(taken: list[AsyncDelivery[Any]]) -> int:
    return sum(len(each.raw) for each in taken)
