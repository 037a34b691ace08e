"""Run: takes from the queues, gives to the slots, waits; until it is told to stop.

    take ──► give ──► nothing more? ──► wait: a call is over, a message came, a batch is due, a signal
      ▲                                          │
      └──────────────────────────────────────────┘

One thread does all that: the one that called `broker.run()`.  To stop:

    1. nothing is taken any more; what was taken and not begun is released
    2. calls that are in work have `grace` seconds; a second signal ends that
    3. what is left is released: not tried, so that another worker has it at once
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from mq.errors import Closed, CorruptStore, MqError, StoreFailed, UsageError

from .asked import Keeper, Wrap
from .counts import Counts
from .feed import Feed
from .mailbox import Mailbox
from .outcome import give_back, logger
from .slot import Slot, ThreadSlot

RENEW_SECONDS: Final = 15.0  # a queue that goes when it is abandoned is received from at least so often
EMPTY_SECONDS: Final = 0.1  # how often to look whether the queues are empty, when other processes work too
BACKOFF_SECONDS: Final = 0.1  # after an error of the store; twice as long after each that follows
BACKOFF_SECONDS_MAX: Final = 10.0
RUNG: Final = "rung"
Event = Slot | int | str  # a call is over | a signal came | there may be a message


class Run:
    def __init__(
        self, broker: Keeper, feeds: Sequence[Feed], wraps: Sequence[Wrap], loop: Any, events: Mailbox[Event]
    ) -> None:  # fmt: skip
        self._broker, self._feeds, self._wraps = broker, feeds, wraps
        self._events = events
        self._signals = 0  # how many came
        self._loop = loop  # of `async def`; None: none yet
        self._own_loop = False
        self._done = self._failed = 0  # messages

    def go(self, grace: float, *, until_empty: bool) -> None:
        """Work until a signal comes, the broker is closed, or, if asked for, the queues are empty."""
        watch = self._broker.watch(self._ring)
        try:
            self._make_slots()
            with suppress(Closed):
                self._work(watch, until_empty)
        finally:
            try:
                self._stop(grace)
            finally:
                with suppress(Closed):
                    watch.close()

    def counts(self) -> Counts:
        slots = [slot for feed in self._feeds for slot in feed.slots]
        return Counts(sum(slot.held for slot in slots), self._done, self._failed)

    def _ring(self) -> None:
        self._events.put(RUNG)

    def _make_slots(self) -> None:
        for feed in self._feeds:
            for handler in feed.handlers:
                for _ in range(handler.concurrency):
                    slot = self._slot(handler)
                    slot.takes = feed.takes_ahead
                    feed.slots.append(slot)

    def _slot(self, handler: Any) -> Slot:
        if not handler.is_async:
            return ThreadSlot(handler, self._wraps, self._events.put)
        from .task import Loop, TaskSlot  # asyncio takes a while to import

        if self._loop is None:
            self._loop, self._own_loop = Loop(), True
        return TaskSlot(handler, self._wraps, self._events.put, self._loop)

    # ── working ────────────────────────────────────────────────────────────────────

    def _work(self, watch: Any, until_empty: bool) -> None:
        failed = 0
        while not self._signals:
            try:
                found = [feed.take() for feed in self._feeds if feed.is_hungry]
                failed = 0
                if any(found):
                    seconds = 0.0
                elif until_empty and self._is_empty():
                    return
                else:
                    seconds = self._seconds(watch, until_empty)
            except (Closed, StoreFailed, UsageError):
                raise
            except CorruptStore:
                logger.exception("a message that is damaged was set aside")
                seconds = 0.0
            except MqError:  # the disk is full, perhaps: it may get better
                logger.exception("nothing could be received; trying again")
                seconds = min(BACKOFF_SECONDS * 2**failed, BACKOFF_SECONDS_MAX)
                failed += 1
            self._wait(seconds)

    def _seconds(self, watch: Any, until_empty: bool) -> float:
        """How long to wait: until something falls due, or a batch goes though it is not full."""
        hungry = [feed for feed in self._feeds if feed.is_hungry]
        if not hungry:
            return math.inf
        seconds = float(watch.arm([feed.source for feed in hungry]))
        due = min(feed.seconds_to_next_batch() for feed in hungry)
        return min(seconds, due, EMPTY_SECONDS if until_empty else RENEW_SECONDS)

    def _is_empty(self) -> bool:
        return all(feed.is_idle for feed in self._feeds) and all(feed.is_empty() for feed in self._feeds)

    def _wait(self, seconds: float) -> None:
        """Take note of what has happened; if nothing has, wait that long for something."""
        for event in self._events.take(seconds):
            self._note(event)

    def _note(self, event: Event) -> None:
        if isinstance(event, Slot):
            count, event.call = len(event.call or ()), None
            self._failed += event.failed
            self._done += count - event.failed
            if not self._signals:
                if event.takes:
                    self._feed(event).take_in(event)
                event.go_on()
        elif isinstance(event, int):
            self._signals += 1
            if self._signals == 1:
                logger.info(
                    "%s: no more is taken; a second one ends what is in work", signal.Signals(event).name
                )

    def _feed(self, slot: Slot) -> Feed:
        return next(feed for feed in self._feeds if slot in feed.slots)

    # ── stopping ───────────────────────────────────────────────────────────────────

    def _stop(self, grace: float) -> None:
        self._signals = max(self._signals, 1)
        slots = [slot for feed in self._feeds for slot in feed.slots]
        for slot in slots:
            slot.takes = False
        for feed in self._feeds:
            feed.give_back()
        until = time.monotonic() + grace
        while (
            any(slot.call for slot in slots) and self._signals < 2 and (left := until - time.monotonic()) > 0
        ):
            self._wait(left)
        for slot in slots:
            if slot.call:
                logger.warning("%s was given up: its messages are released", slot.handler.name)
                give_back(slot.handler.source, slot.give_up())
            give_back(slot.handler.source, slot.taken_ahead())
            slot.end()
        if self._own_loop:
            self._loop.end()
