"""What mq has to say, kept until the thread that says it holds no lock.

A handler of the logging module is the user's: it may use mq itself, or block for long.
Under the store's mutex or its LOCK the first would be a deadlock, and the second would
stop every process.  So what is noticed there is put down here, and logged later.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Final

logger: Final = logging.getLogger("mq")

INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR
RARELY_SECONDS: Final = 60.0
KEPT_MAX: Final = 1000  # the oldest go first: a store that is salvaged may have many losses


class Notes:
    def __init__(self) -> None:
        self.kept: deque[tuple[int, str, tuple[object, ...]]] = deque(maxlen=KEPT_MAX)
        self._last: dict[str, float] = {}  # when a text was last put down, monotonic seconds

    def put_down(self, level: int, text: str, *args: object) -> None:
        """To be logged by the next call of `log`; may be called under any lock."""
        self.kept.append((level, text, args))

    def put_down_rarely(self, level: int, text: str, *args: object) -> None:
        """The same, unless that text was put down within the last minute."""
        now = time.monotonic()
        if text not in self._last or now - self._last[text] > RARELY_SECONDS:
            self._last[text] = now
            self.put_down(level, text, *args)

    def log(self) -> None:
        """Log what was put down.  Called with no lock held."""
        while self.kept:
            level, text, args = self.kept.popleft()
            logger.log(level, text, *args)
