"""Queues that go when no process receives from them: once they are empty, or with all they hold.

    received ──────── shortest ────────► until               (store time; in DECLARE and RENEW)
    received ── delete_when_idle ──────► goes, if it is empty by then or later
    received ── delete_when_abandoned ─► goes, with what it holds

A `receive` writes a RENEW only once a quarter of `shortest` is over since the last one.  That one is for a
quarter more than `shortest`, so the queue stays long enough behind a `receive` that wrote none: it goes
late, and never early.

`shortest` is the shorter of the two options, so one time in the log serves for both.  Time
during which no process had the store open does not count: the process that opens it first
moves `until` by as much.
"""

from __future__ import annotations

from typing import Final

from .now import Now
from .options import Declaration, Options

RENEW_SHARE: Final = 4  # it is renewed for a quarter of its time more, and again once that is over
LOOK_MS: Final = 1000  # a queue that is not empty is looked at again after this, or a quarter of its time
DOWNTIME_MS: Final = 1000  # less counts as if a process had been there, or it would be noted at each restart


def shortest(options: Options) -> float | None:
    """How long the queue stays at least, seconds; None: for ever."""
    spans = options.delete_when_idle, options.delete_when_abandoned
    return min((each for each in spans if each is not None), default=None)


class Idle:
    """When one queue goes."""

    __slots__ = ("_abandoned", "_idle", "seconds", "until")

    def __init__(self, declaration: Declaration) -> None:
        self._idle, self._abandoned = declaration.delete_when_idle, declaration.delete_when_abandoned
        self.seconds = shortest(declaration)  # how long it stays at least, without receivers; None: for ever
        self.until = declaration.idle_until  # store time, ms: until then it is not idle

    def is_over(self, now: Now, count: int) -> bool:
        """Whether the queue, which holds *count* messages, is to be deleted now."""
        if self.seconds is None or self.until > now.store:
            return False
        idle, abandoned = self._ends()
        if abandoned is not None and abandoned <= now.store:
            return True
        return idle is not None and idle <= now.store and not count

    def look_at(self, now: Now) -> int | None:
        """When to ask `is_over` again, if it is not; store time."""
        if self.seconds is None:
            return None
        ends = [end for end in self._ends() if end is not None]
        later = [end for end in ends if end > now.store]
        if len(later) < len(ends):  # it is not empty
            later.append(now.store + max(LOOK_MS, int(self.seconds * 1000) // RENEW_SHARE))
        return min(later)

    def renewal(self, now: Now) -> int | None:
        """Until when the queue stays, for a process receives from it; None if that is nearly known."""
        if self.seconds is None:
            return None
        stays = int(self.seconds * 1000)
        return now.store + stays + stays // RENEW_SHARE if self.until - now.store < stays else None

    def prolonged(self, now: Now, downtime_ms: int) -> int | None:
        """Until when the queue stays, for no process had the store open for so long; None: as it is."""
        if self.seconds is None or self.until <= now.store - downtime_ms:
            return None
        is_noted = downtime_ms >= min(DOWNTIME_MS, int(self.seconds * 1000) // RENEW_SHARE)
        return self.until + downtime_ms if is_noted else None

    def _ends(self) -> tuple[int | None, int | None]:
        """When the queue has been idle for long enough, and when abandoned."""
        assert self.seconds is not None
        since = self.until - int(self.seconds * 1000)
        return (
            None if self._idle is None else since + int(self._idle * 1000),
            None if self._abandoned is None else since + int(self._abandoned * 1000),
        )
