"""A bar on standard error for what may take long; nothing, unless that is a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Final, Self

REDRAW_SECONDS: Final = 0.1


class Progress:
    """Shows how much of *total* is done, and takes itself away at the end."""

    def __init__(self, label: str, total: int = 0) -> None:
        self.label, self.total = label, total
        self.done = 0
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._next = 0.0

    def add(self, count: int) -> None:
        self.show(self.done + count, self.total)

    def show(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        now = time.monotonic()
        if self._shown and now >= self._next:
            self._next = now + REDRAW_SECONDS
            share = min(1.0, done / total) if total else 0.0
            width = max(10, min(40, shutil.get_terminal_size().columns - len(self.label) - 9))
            bar = ("█" * int(share * width)).ljust(width, "░")
            sys.stderr.write(f"\r{self.label} {bar} {share:4.0%}")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
