"""Sampler: what the store holds, every other second while a page is open, and rates between two samples.

    page ──► fresh()                    a sample that is at most as old as EVERY_SECONDS
    stream ──► watching() ──► next()    each sample as it comes

All pages share one sample.  While no stream is open nothing is asked, and what was remembered is dropped.

The first look at a queue makes all that there is of it, which takes 0.3 ms.  So the first page of a store
with many queues shows those at its top, and its stream brings the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from mq import Broker, MqError, Stats, StoreFailed
from mq.api.broker import StoreStats
from mq.engine import looking
from mq.engine.health import Health, health
from mq.serve import spared
from mq.serve.ui.desk import Busy, Desk

EVERY_SECONDS: Final = 2.0
REST: Final = 10  # at least so many times as long as it took is there between two samples
KEPT: Final = 60  # samples of a history
LINGER_SECONDS: Final = 15.0  # for which samples go on without a stream: a page is being changed for another
MANY: Final = 500  # queues, of which the first look takes longer than a page may
TOP: Final = 50  # queues that are looked at before
TARGETS_SECONDS: Final = (
    10.0  # between two looks at where dead letters go, while definitions change all the time
)
STALE_SECONDS: Final = 120.0  # after which rates are not counted from an old sample


class Rates(NamedTuple):
    """Messages a second."""

    came: float = 0.0
    went: float = 0.0  # acked, expired, dropped, or gone to the dead letters
    failed: float = 0.0


QUIET: Final = Rates()


class Sample(NamedTuple):
    number: int
    at: float  # seconds since 1970, for people
    read_at: float  # monotonic seconds: the wall clock may be set meanwhile
    stats: StoreStats
    health: Health
    targets: dict[str, str]  # by queue, where its dead letters go
    rates: dict[str, Rates]  # of the queues in which something happened
    histories: dict[str, list[Rates]]  # the last KEPT at most, the oldest first
    seconds: float  # for which the sample was taken
    more: int = 0  # queues that are in the store, and not in here

    def rate(self, queue: str) -> Rates:
        return self.rates.get(queue, QUIET)

    def dead(self, queue: str) -> tuple[str, int]:
        """Where dead letters of *queue* go, and how many are there."""
        target = self.targets.get(queue, "")
        stats = self.stats.queues.get(target)
        return target, depth(stats) if stats else 0


def depth(stats: Stats) -> int:
    return stats.ready + stats.in_flight + stats.delayed


class Sampler:
    """Used by the tasks of one event loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._taking = desk, asyncio.Lock()
        self._viewers, self._unwatched_since = 0, 0.0
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[Sample] | None = None  # of which the answer is not there yet
        self._tries = 0  # that have ended
        self._taken = asyncio.Event()  # set and replaced with each sample, or trouble
        self._histories: dict[str, deque[Rates]] = {}
        self._targets: dict[str, str] = {}
        self._targets_of, self._targets_at = -1, 0.0
        self.latest: Sample | None = None
        self.trouble = ""
        """Why there is no newer sample; "" while there is."""
        self.failed = False
        """A write or an fsync failed: there will be no newer sample."""

    # ── for pages ──────────────────────────────────────────────────────────────────

    async def fresh(self, seconds: float = EVERY_SECONDS) -> Sample | None:
        """A sample of the last *seconds*; an older one, or None, if `trouble` says why."""
        tries = self._tries
        async with self._taking:
            if self.trouble:
                is_fresh = self._tries != tries  # of another page, while this one waited: waits would add up
            else:
                is_fresh = self.latest is not None and time.monotonic() - self.latest.read_at < seconds
            if not is_fresh:
                await self._take()
        return self.latest

    async def top(self) -> Sample | None:
        """The first queues by name, if there are many and no sample of all of them yet; else None."""
        if self.latest or self.trouble:
            return None
        with suppress(MqError, Busy, OSError):  # `fresh` says so
            return await self._desk.ask(_read_top)
        return None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Samples are taken meanwhile."""
        self._viewers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._go_on())
        try:
            yield
        finally:
            self._viewers -= 1
            self._unwatched_since = time.monotonic()

    async def next(self) -> Sample | None:
        """The next sample when it comes; None if there is trouble instead."""
        await self._taken.wait()
        return None if self.trouble else self.latest

    # ── taking them ────────────────────────────────────────────────────────────────

    def _is_watched(self) -> bool:
        return self._viewers > 0 or time.monotonic() - self._unwatched_since < LINGER_SECONDS

    async def _go_on(self) -> None:
        while self._is_watched():
            await self.fresh(seconds=EVERY_SECONDS / 2)
            latest = self.latest  # the first look takes much longer than those that follow
            took = latest.seconds if latest and latest.number else 0.0
            await asyncio.sleep(max(EVERY_SECONDS, REST * took))
        self._histories.clear()

    async def _take(self) -> None:
        is_late = False
        try:
            if self._reading is None:
                self._reading = self._desk.begin(self._read)
            self.latest = await self._desk.answer(self._reading)
            self.trouble, self.failed = "", False
        except (MqError, Busy, OSError) as error:
            is_late = isinstance(error, Busy)
            self.trouble, self.failed = " ".join(str(error).split()), isinstance(error, StoreFailed)
        finally:
            # An answer that comes too late is the next page's: also one that came as it was given up.
            if self._reading is not None and self._reading.done() and not is_late:
                self._reading = None
            self._tries += 1
        self._taken.set()
        self._taken = asyncio.Event()

    def _read(self, broker: Broker) -> Sample:
        """In a thread, one at a time."""
        began = time.perf_counter()
        before, stats = self.latest, spared.stats(broker)
        read_at = time.monotonic()
        if before is None or read_at - before.read_at > STALE_SECONDS:
            before = None
            self._histories.clear()
        rates = _rates(before.stats, stats, read_at - before.read_at) if before else {}
        return Sample(
            self.latest.number + 1 if self.latest else 0, time.time(), read_at, stats, health(broker._store),
            self._read_targets(broker, stats), rates, self._add_to_histories(rates),
            time.perf_counter() - began,
        )  # fmt: skip

    def _add_to_histories(self, rates: dict[str, Rates]) -> dict[str, list[Rates]]:
        for name in rates.keys() - self._histories.keys():
            self._histories[name] = deque(maxlen=KEPT)
        for name, past in list(self._histories.items()):
            past.append(rates.get(name, QUIET))
            if not any(map(any, past)):
                self._histories.pop(name, None)
        return {name: list(past) for name, past in self._histories.items()}

    def _read_targets(self, broker: Broker, stats: StoreStats) -> dict[str, str]:
        """Where dead letters go: asked again when a definition has changed."""
        generation, now = broker.generation, time.monotonic()
        is_due = generation != self._targets_of and now - self._targets_at > TARGETS_SECONDS
        if is_due or not self._targets:
            self._targets = looking.targets_of(broker._store, list(stats.queues))
            self._targets_of, self._targets_at = generation, now
        return self._targets


def _read_top(broker: Broker) -> Sample | None:
    names = broker.queues()
    if len(names) <= MANY:
        return None
    top = names[:TOP]
    targets = looking.targets_of(broker._store, top)
    began, stats = time.perf_counter(), broker.stats({*top, *targets.values()})
    more = len(names) - len(stats.queues)
    return Sample(
        0, time.time(), time.monotonic(), stats, health(broker._store), targets, {}, {},
        time.perf_counter() - began, more,
    )  # fmt: skip


def _rates(before: StoreStats, now: StoreStats, seconds: float) -> dict[str, Rates]:
    found = {}
    for name, new in now.queues.items():
        old = before.queues.get(name)
        if old is not None and new[6:] != old[6:] and seconds > 0:
            rates = _between(old, new, seconds)
            if any(rates):
                found[name] = rates
    return found


def _between(old: Stats, new: Stats, seconds: float) -> Rates:
    went = (
        new.acked + new.expired + new.dead_lettered + new.dropped
        - old.acked - old.expired - old.dead_lettered - old.dropped
    )  # fmt: skip
    counts = new.published - old.published, went, new.failed - old.failed
    return Rates(*(max(0, count) / seconds for count in counts))
