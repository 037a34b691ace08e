"""The time.  Two of them, in whole milliseconds since 1970:

store   for visibility deadlines and the times in the log.  Follows the monotonic clock, so
        nothing that happens to the wall clock makes a delivery time out; never behind the
        last time in the log.
wall    for what people name: delays, dates, and when a message was published.

All processes that have a store open share store time: the first one puts on the page how far
store time is ahead of the monotonic clock, and which clock that is.

When a store is opened, store time goes on from the last time in the log:

    the page speaks of this boot            the monotonic clock has gone on: exact
    another boot, and the wall clock was    the wall clock tells how long the store was closed
      set then and is set now
    else                                    as if the store had not been closed

So a wall clock that is set by decades between two openings ends no visibility timeout.  What
the wall clock is ahead of store time then, the log says at the head of its next segment
(mq/storage/log.py), and so `created_at` is right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from mq import exact
from mq.delivery.now import Now
from mq.errors import Unsupported, UsageError
from mq.storage.disk import Disk
from mq.storage.shared import BOOT, OFFSET, SEEN, TIMESPACE

CLOCK_SECONDS_MAX: Final = 253_402_300_800  # the year 10000: with any duration added it fits into the log
WORD: Final = 1 << 64
CUSTOM: Final = WORD - 1  # in place of the boot id: store time is a custom clock's
APART_MS_MAX: Final = 60_000  # two custom clocks, less than this apart, count as one
SET_MS: Final = 1_672_531_200_000  # 2023: a wall clock before the first mq was never set
DOWNTIME_MS_MAX: Final = 366 * 86_400_000  # a store that seems to have been closed for longer was not

Words = memoryview | list[int]


class Clock:
    downtime_ms: int
    """How much store time passed without a process, before this one opened the store.

    Counted from the last event or the last orderly close, whichever is later: a process that
    was killed after it had appended nothing for an hour adds that hour.  Not from what storage
    writes for itself: a recovery does so before the log says how long no process was there, and
    may be killed in between.  0 for a process that joins others.
    """

    def __init__(self, custom: Callable[[], float] | None, disk: Disk) -> None:
        """*custom*, seconds since 1970, stands for both; a test's clock, usually."""
        self._custom, self._disk = custom, disk
        self._offset_ms = 0
        self._latest_ms = 0
        self.downtime_ms = 0
        if custom is not None:
            self._custom_ms()  # one that is none is refused before anything is made

    @property
    def is_custom(self) -> bool:
        """Whether time is what a function of the program says: it may stand still, and jump."""
        return self._custom is not None

    def _custom_ms(self) -> int:
        """What the caller's clock says; UsageError if that is no time.  What it raises, the caller gets."""
        assert self._custom is not None
        seconds = exact.number("clock()", self._custom(), "number of seconds since 1970")
        if not 0 <= seconds <= CLOCK_SECONDS_MAX:
            raise UsageError(
                f"clock() is from 0 to {CLOCK_SECONDS_MAX} seconds since 1970, not {exact.shown(seconds)}"
            )
        return int(seconds * 1000)

    # ── opening a store ────────────────────────────────────────────────────────────

    def start(self, last_ms: int, skew_ms: int, page: Words, event_ms: int = 0) -> None:
        """Begin store time.  A process that only reads does so too.

        *last_ms* is the last time in the log, 0 if there is none; *skew_ms*, how far the wall
        clock was ahead of it then; *page* is the store's, as the last process left it; *event_ms*,
        the time of the last event.  A reader does not ask for downtime, and may leave that out.
        """
        self._latest_ms = last_ms
        now = max(self._resumed(last_ms, skew_ms, page), last_ms)
        self._offset_ms = now - _ticks()
        seen = page[SEEN] if page[SEEN] <= now else 0
        self.downtime_ms = now - max(event_ms, seen) if event_ms else 0

    def _resumed(self, last_ms: int, skew_ms: int, page: Words) -> int:
        """What store time is now, as far as the system tells."""
        wall = self.wall_ms()
        if self._custom is not None or not last_ms:
            return wall
        ticks = _ticks()
        resumed = ticks + _signed(page[OFFSET])
        if self._is_of_page(page) and last_ms <= resumed <= last_ms + ticks + DOWNTIME_MS_MAX:
            return resumed
        before = last_ms + skew_ms
        is_downtime = before >= SET_MS and 0 <= wall - before <= DOWNTIME_MS_MAX
        return last_ms + wall - before if is_downtime else last_ms

    def put_on(self, page: memoryview) -> None:
        """Say on the page which clock this is.

        The boot last: a process that dies in here leaves a page that speaks of no clock.
        """
        page[BOOT] = 0
        page[OFFSET] = self._offset_ms % WORD
        boot, page[TIMESPACE] = self._which()
        page[BOOT] = boot

    def join(self, page: memoryview, last_ms: int) -> None:
        """Go by the store time of the processes that have the store open already."""
        if self._custom is None:
            self._offset_ms = _signed(page[OFFSET])
        self._latest_ms = last_ms
        self.downtime_ms = 0

    # ── whose clock it is ──────────────────────────────────────────────────────────

    def check(self, path: str, page: Words) -> None:
        """Unsupported if the processes that have the store open go by another clock."""
        (boot, space), theirs = self._which(), page[BOOT]
        if (boot == CUSTOM) != (theirs == CUSTOM):
            here, there = ("a", "no") if boot == CUSTOM else ("no", "a")
            raise Unsupported(
                f"{path}: opened with {here} clock=, and open in a process with {there} clock=; processes"
                " that share a store go by one clock: give clock= in all of them, or in none"
            )
        if boot == CUSTOM:
            apart = abs(self.wall_ms() - _ticks() - _signed(page[OFFSET]))
            if space != page[TIMESPACE] and apart > APART_MS_MAX:
                raise Unsupported(
                    f"{path}: this clock= is {apart / 1000:.0f} seconds apart from the clock= of a process"
                    " that has the store open; processes that share a store go by one clock"
                )
        elif boot and theirs and boot != theirs:
            raise Unsupported(
                f"{path}: open on another computer or virtual machine that shares this directory, whose"
                " monotonic clock is another one (the boot id differs): close it there first"
            )
        elif space and page[TIMESPACE] and space != page[TIMESPACE]:
            raise Unsupported(
                f"{path}: open in a process in another time namespace (time:[{page[TIMESPACE]}], and this one"
                f" is in time:[{space}]), whose monotonic clock is another one: run both in one time"
                " namespace, or close it there first"
            )

    def _which(self) -> tuple[int, int]:
        """The words that tell this clock from others; asked each time, for a fork may be in another."""
        if self._custom is not None:
            return CUSTOM, _tag(self._custom)
        return self._disk.clocks()

    def _is_of_page(self, page: Words) -> bool:
        boot, space = self._which()
        return boot != 0 and (boot, space) == (page[BOOT], page[TIMESPACE])

    # ── what time it is ────────────────────────────────────────────────────────────

    def passed(self, last_ms: int) -> None:
        """Another process has seen this time: here it is not earlier."""
        if last_ms > self._latest_ms:
            self._latest_ms = last_ms
            if self._custom is None:
                # Never, if they go by one clock; but not every system tells (see `check`).
                self._offset_ms = max(self._offset_ms, last_ms - _ticks())

    def store_ms(self) -> int:
        if self._custom is None:
            return time.monotonic_ns() // 1_000_000 + self._offset_ms
        self._latest_ms = max(self._latest_ms, self._custom_ms())
        return self._latest_ms

    def wall_ms(self) -> int:
        return max(0, time.time_ns() // 1_000_000) if self._custom is None else self._custom_ms()

    def skew_ms(self) -> int:
        """How far the wall clock is ahead of store time."""
        return self.wall_ms() - self.store_ms()

    def now(self) -> Now:
        if self._custom is None:  # flat: once a delivery
            return Now(time.monotonic_ns() // 1_000_000 + self._offset_ms, time.time_ns() // 1_000_000)
        return Now(self.store_ms(), self.wall_ms())

    def timer(self, seconds: float) -> Callable[[], bool]:
        """Whether so many seconds are over by now.  With a custom clock, which may stand still, never."""
        if self._custom is not None:
            return lambda: False
        until = time.monotonic() + seconds
        return lambda: time.monotonic() >= until


def _tag(custom: Callable[[], float]) -> int:
    """What tells one process's custom clock from others.  Equal methods of one object are one clock."""
    key = id(getattr(custom, "__self__", custom))
    return (os.getpid() << 48 ^ key) % WORD


def _ticks() -> int:
    return time.monotonic_ns() // 1_000_000


def _signed(word: int) -> int:
    return word - (word >> 63 << 64)
