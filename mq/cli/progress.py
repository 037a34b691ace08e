"""A line on standard error for what takes longer than a second; nothing, unless that is a terminal.

    verifying ████████████░░░░░░░░  60%  1.2 GiB  310.4 MiB/s  0:03 left

Where it is not known how much there is, the bar, the share and the time left are missing.  A narrow
terminal gets as much of it as fits.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

from mq.cli import output

FIRST_SECONDS: Final = 1.0  # what is done by then shows nothing
REDRAW_SECONDS: Final = 0.1
BAR_COLUMNS_MAX: Final = 30
BAR_COLUMNS_MIN: Final = 8

_shown: list[Progress] = []  # the one whose line is on the terminal


class Progress:
    """Shows how much of *total* is done, and takes itself away at the end.

    *unit*: what is counted, as "message"; "": bytes.  *hidden*: show nothing, since what the command
    prints goes to the same terminal.
    """

    def __init__(self, label: str, total: int = 0, unit: str = "", *, hidden: bool = False) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.is_possible = not hidden and output.is_terminal(sys.stderr)
        self._begun = time.monotonic()
        self._next = self._begun + FIRST_SECONDS

    def add(self, count: int) -> None:
        self.show(self.done + count, self.total)

    def show(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self.is_possible and (now := time.monotonic()) >= self._next:
            self._next = now + REDRAW_SECONDS
            self._draw(now - self._begun)

    def _draw(self, seconds: float) -> None:
        room = (output.columns(sys.stderr) or 80) - 1
        sys.stderr.write(f"\r{self.text(seconds, room)}\033[K")
        sys.stderr.flush()
        _shown[:] = [self]

    def text(self, seconds: float, room: int) -> str:
        """The line, *seconds* after it began, in *room* columns."""
        rate = self.done / seconds if seconds > 0 else 0.0
        parts = [self._count(self.done), f"{self._rate(rate)}/s"]
        if self.total:
            share = min(1.0, self.done / self.total)
            left = (self.total - self.done) / rate if rate else None
            parts = [f"{share:4.0%}", *parts]
            parts += [f"{clock(max(0.0, left))} left"] if left is not None else []
            # What is needed most comes first where not all of it fits.
            for kept in ((0, 1, 2, 3), (0, 2, 3), (0, 3), (0,)):
                some = "  ".join(parts[at] for at in kept if at < len(parts))
                size = room - output.width(f"{self.label}  {some}")
                if size >= BAR_COLUMNS_MIN:
                    bar = min(size, BAR_COLUMNS_MAX)
                    full = int(share * bar)
                    return f"{self.label} {'█' * full}{'░' * (bar - full)} {some}"
        return output.shorten("  ".join([self.label, *parts]), room)

    def _count(self, count: int) -> str:
        return output.count(count, self.unit) if self.unit else output.size(count)

    def _rate(self, rate: float) -> str:
        return f"{rate:,.0f}" if self.unit else output.size(int(rate))

    def erase(self) -> None:
        """Take the line from the terminal; the next `show` may draw it again."""
        if self in _shown:
            _shown.clear()
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()


class LogProgress(Progress):
    """Of a log that is read from its head to its end."""

    def begin(self, end: int) -> None:
        self._first, self._end = -1, end

    def read(self, start: int, stop: int) -> None:
        """What stands from *start* to *stop* was read."""
        self._first = start if self._first < 0 else self._first
        self.show(stop - self._first, self._end - self._first)


_opening: list[Progress] = []  # of the store that is being opened


def opening(done: int, total: int) -> None:
    """Show how far the opening of a store is; the line goes when all is *done*."""
    if done < total:
        _opening[:] = _opening or [Progress("opening")]
        _opening[0].show(done, total)
    elif _opening:
        _opening.pop().erase()


def clock(seconds: float) -> str:
    """A span of time as a clock shows it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clear() -> None:
    """Before a line is printed: no progress is on the terminal."""
    for each in list(_shown):
        each.erase()
