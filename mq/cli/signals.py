"""Ctrl-C and SIGTERM, held back while a message changes hands.

Python may raise KeyboardInterrupt between any two steps: also between the one that
takes a message and the one that remembers it, and then the command could not release it.
So a signal is only noted, and raised where the command allows it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Raises KeyboardInterrupt(signal number), but only in `check()` and inside `allowed()`."""

    def __init__(self) -> None:
        self._came = 0
        self._allowed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` want it
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise, if a signal came."""
        if self._came:
            raise KeyboardInterrupt(self._came)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise at once if a signal comes in here: for reads and writes that may block."""
        self._allowed = True
        try:
            self.check()
            yield
        finally:
            self._allowed = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came = number
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt(number)
