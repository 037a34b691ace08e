"""ReceiveRequestAttemptId: a receive that is tried again gets what the first try got.

In memory: a server that was started again does not know the attempts from before, and the messages come
again after their visibility timeout.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final

from mq import AsyncDelivery

WINDOW_SECONDS: Final = 300.0
KNOWN_MAX: Final = 10_000

Key = tuple[str, str]  # the queue's name, the attempt's id


class Attempts:
    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[float, list[AsyncDelivery[Any]]]] = OrderedDict()

    def remember(self, key: Key, taken: list[AsyncDelivery[Any]]) -> None:
        self._known[key] = time.monotonic() + WINDOW_SECONDS, taken
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def recall(self, key: Key) -> list[AsyncDelivery[Any]]:
        """What that attempt took, if it was made within the last five minutes; it is forgotten."""
        until, taken = self._known.pop(key, (0.0, []))
        return taken if time.monotonic() < until else []
