"""Status: what a worker has done, on the last line of a terminal, or now and then as a line of a log.

2 processes, 8 in flight, 1204 done, 3 failed, 51/s
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final, TextIO

from mq.cli import output
from mq.cli.app import note
from mq.workers.counts import Counts

TERMINAL_SECONDS: Final = 0.5  # between two looks
LOG_SECONDS: Final = 10.0
RATE_SECONDS: Final = 5.0  # the rate is of so long


class Status:
    def __init__(self) -> None:
        self._terminal: TextIO | None = _terminal()
        self.seconds: Final = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        self._shown = ""  # on the last line of the terminal
        self._told = 0  # how many were done, or failed, when the log was last told
        self._past: deque[tuple[float, int]] = deque()  # monotonic seconds, how many

    @property
    def is_on_terminal(self) -> bool:
        """Whether what others print is to come by here, too."""
        return self._terminal is not None

    def show(self, processes: int, counts: Counts) -> None:
        """Called each *seconds*, or sooner."""
        rate = self._rate(time.monotonic(), counts.done + counts.failed)
        if self._terminal:
            width = (output.columns(self._terminal) or 80) - 1
            self._draw(fitting(parts_of(processes, counts, rate), width))
        elif counts.done + counts.failed != self._told:
            self._told = counts.done + counts.failed
            note(", ".join(parts_of(processes, counts, rate)))

    def _rate(self, now: float, total: int) -> float:
        past = self._past
        past.append((now, total))
        while len(past) > 2 and past[1][0] <= now - RATE_SECONDS:
            past.popleft()
        seconds = now - past[0][0]
        return (total - past[0][1]) / seconds if seconds else 0.0

    def note(self, message: str) -> None:
        """A line that stays."""
        self.clear()
        note(message)

    def write(self, printed: bytes) -> None:
        """What a process printed: whole lines."""
        self.clear()
        with suppress(OSError):
            sys.stderr.buffer.write(printed)
            sys.stderr.buffer.flush()

    def end(self, counts: Counts) -> None:
        """The last line, if anything was done."""
        self.clear()
        if counts.done or counts.failed:
            note(f"{counts.done} done, {counts.failed} failed")

    def clear(self) -> None:
        self._draw("")

    def _draw(self, text: str) -> None:
        if self._terminal and text != self._shown:
            with suppress(OSError):
                self._terminal.write(f"\r{text}\x1b[K")
                self._terminal.flush()
            self._shown = text


def _terminal() -> TextIO | None:
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return sys.stderr
    return None


def parts_of(processes: int, counts: Counts, rate: float) -> list[str]:
    return [
        f"{processes} process{'es' * (processes != 1)}", f"{counts.in_flight} in flight",
        f"{counts.done} done", f"{counts.failed} failed", f"{rate:.{1 if 0 < rate < 10 else 0}f}/s",
    ]  # fmt: skip


def fitting(parts: list[str], width: int) -> str:
    """As many of the parts as there is room for; what is done, and what failed, are the last to go."""
    for at in (None, 0, -1, 0, 0):
        if at is not None:
            parts = parts[:at] + parts[at:][1:]
        if len(text := ", ".join(parts)) <= width:
            return text
    return parts[0][: max(width, 0)]
