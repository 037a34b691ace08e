"""Ctrl-C, SIGTERM and SIGHUP, held back while a message changes hands.

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

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Raises KeyboardInterrupt(signal number), but only in `check()` and inside `allowed()`."""

    def __init__(self) -> None:
        self._came = 0  # the number of the last one
        self._count = 0
        self._enough = 0  # so many signals raise at once; 0: none does
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
    def allowed(self, signals: int = 1) -> Iterator[None]:
        """Raise at once if a signal comes in here, or the last of so many: for what may block."""
        self._enough = signals
        try:
            if self._count >= signals:
                self.check()
            yield
        finally:
            self._enough = 0

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came = number
        self._count += 1
        if 0 < self._enough <= self._count:
            self._enough = 0
            raise KeyboardInterrupt(number)
