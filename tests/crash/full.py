"""Full disks: fill one up, drain it, and fill it up again, in as many ways as there are.

    publish ──► DiskFull ──► receive, ack, …, until it is empty ──► publish ──► as many as before
                              │  pauses, in which the cleaner comes by
                              └─ restarts, kills, and other programs that take what room there is

A `Way` says how; whatever it is, no receive and no ack may be refused.  The same ways are
gone on the simulated disk, with a capacity, and on real file systems: see `Place`.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol
from unittest import mock

import click

import mq
from mq.api.broker import Broker
from mq.engine import pressure
from mq.engine.store import Store
from mq.storage import reserve, room, rotation

from .disk import SimulatedDisk

HELD_SECONDS = 120.0  # a visibility timeout, a backoff, and more: what a killed process held comes again
AGAIN_SHARE = 0.9  # of what there was room for at first there is room for again
EPOCH = 1_700_000_000.0  # seconds since 1970
LARGEST_BYTES = 100_000  # of a body on a small disk
PUBLISHES_MAX = 200_000
FLUSH_EVERY = 100  # what is not on the disk costs a simulated one time


class Refused(AssertionError):
    """Something could not be done that a full disk must not stand in the way of."""


class Way(NamedTuple):
    """How a disk is filled and drained."""

    bodies: tuple[int, ...]  # sizes, of which each body has one
    segment_bytes: int
    sync: str = "never"
    batch: int = 1  # received and acked at once
    pause: int = 0  # the cleaner comes by after so many; 0: only by itself
    ending: str = ""  # "restart" or "kill", now and then
    shuffled: bool = False  # by priorities: what lives is spread over all segments
    crowded: bool = False  # other programs take all the room that there is left
    tells: bool = True  # the system says how much room is free, and segments are shorter than asked for
    seed: int = 0

    def __str__(self) -> str:
        said = f"bodies {'/'.join(map(str, self.bodies))}, segments {self.segment_bytes}, sync {self.sync}"
        said += f", by {self.batch}, pause {self.pause}, {self.ending or 'no'} ending"
        flags = {"shuffled": self.shuffled, "crowded": self.crowded, "untold": not self.tells}
        return ", ".join([said, *(name for name, is_so in flags.items() if is_so), f"seed {self.seed}"])


class Place(Protocol):
    """Where a store is, on a disk that is about to be full."""

    def open(self, way: Way) -> Broker: ...
    def kill(self, broker: Broker) -> None:
        """The process is gone, and what it held times out."""

    def crowd(self) -> None:
        """Other programs take the room that is left."""

    def leave(self) -> None:
        """And give it back."""


def draw(seed: int, largest: int) -> Way:
    """Any way, on a disk that has room for some bodies of the *largest* size."""
    rng = random.Random(seed)
    sizes = [each for each in (0, 1, 100, 1000, 5000, 50_000, 300_000, 3_000_000) if each <= largest]
    return Way(
        bodies=tuple(rng.choices(sizes[2:], k=rng.choice((1, 1, 2, 4)))) + (0,) * (rng.random() < 0.2),
        segment_bytes=1 << rng.choice((10, 12, 14, 16, 18, 20, 22, 26)),
        sync=rng.choice(("never", "never", "always")),
        batch=rng.choice((1, 1, 7, 100, 1000)),
        pause=rng.choice((0, 1, 10, 100)),
        ending=rng.choice(("", "", "restart", "kill")),
        shuffled=rng.random() < 0.3,
        crowded=rng.random() < 0.3,
        seed=seed,
    )


def go(way: Way, place: Place) -> tuple[int, int]:
    """Go that way twice over; how many messages there was room for.  Refused, if it ends anywhere."""
    rng = random.Random(way.seed)
    brokers = [place.open(way)]
    try:
        return _go(way, place, brokers, rng)
    finally:
        brokers[-1].close()


def _go(way: Way, place: Place, brokers: list[Broker], rng: random.Random) -> tuple[int, int]:
    first = fill(way, brokers[-1], rng)
    if way.crowded:
        place.crowd()
    drain(way, place, brokers, len(first), rng)
    if way.crowded:
        place.leave()
    again = fill(way, brokers[-1], random.Random(way.seed))
    if sum(again) < AGAIN_SHARE * sum(first) - rotation.ALLOCATE_BYTES - max(way.bodies):
        raise Refused(f"{sum(first):,} bytes at first, {sum(again):,} again: {way}")
    drain(way, place, brokers, len(again), rng)
    return len(first), len(again)


def fill(way: Way, broker: Broker, rng: random.Random) -> list[int]:
    """Publish until nothing fits, however small; what each took, and a little for itself."""
    queue = broker.queue("mail")
    done: list[int] = []
    for sizes in (way.bodies, (min(way.bodies),)):
        with suppress(mq.DiskFull):
            while len(done) < PUBLISHES_MAX:
                size = rng.choice(sizes)
                options: dict[str, Any] = {"priority": rng.randrange(4)} if way.shuffled else {}
                queue.publish(bytes(size), **options)
                done.append(size + 24)
                if len(done) % FLUSH_EVERY == 0:
                    broker.flush()
    return done


def drain(way: Way, place: Place, brokers: list[Broker], count: int, rng: random.Random) -> None:
    """Receive and ack all *count* messages with the last of *brokers*, to which each ending adds one."""
    left = count
    steps = 0
    endings = set(rng.sample(range(count), min(count, 4))) if way.ending else set()
    try:
        while left:
            broker = brokers[-1]
            queue = broker.queue("mail")
            taken = queue.receive_many(way.batch, timeout=0) if way.batch > 1 else [queue.receive(timeout=0)]
            if endings & set(range(steps, steps + len(taken))):
                endings -= set(range(steps, steps + len(taken)))
                if way.ending == "kill":
                    place.kill(broker)
                else:
                    for message in taken:
                        message.release()
                    broker.close()
                brokers.append(place.open(way))
                continue
            if not taken or taken[0] is None:
                raise Refused(f"{left} of {count} are not there: {way}")
            if way.batch > 1:
                queue.ack_many(taken)
            else:
                taken[0].ack()
            left -= len(taken)
            if steps // FLUSH_EVERY != (steps + len(taken)) // FLUSH_EVERY:
                broker.flush()
            steps += len(taken)
            if way.pause and steps // way.pause != (steps - len(taken)) // way.pause:
                broker._store.maintenance.run()
    except mq.DiskFull as error:
        raise Refused(f"{left} of {count} left: {error}: {way}") from error
    if brokers[-1].queue("mail").receive(timeout=0) is not None:
        raise Refused(f"more than {count}: {way}")


SOME = (
    Way((50_000,), 1 << 26, tells=False),  # little is written to drain it
    *(draw(seed, LARGEST_BYTES) for seed in (0, 1, 3, 6, 7, 8, 9, 10, 12, 13, 14)),
    Way((300,), 1 << 26, pause=400, tells=False),  # one segment, and much to copy
)


def search(place: Callable[[Way], Place], ways: Iterable[Way]) -> str:
    """What stood in the way of the first that did not end well, or ""."""
    for way in ways:
        try:
            go(way, place(way))
        except (Refused, mq.MqError) as wrong:
            return f"{wrong!r}: {way}"
    return ""


# ── on a simulated disk ────────────────────────────────────────────────────────────


class Simulated:
    """A store alone on a small disk, and nothing happens there by itself."""

    def __init__(self, way: Way, capacity: int = 1 << 20) -> None:
        self.disk = SimulatedDisk(capacity=capacity, keeps_part=way.seed % 2 == 0)
        self.disk.tells_free = way.tells
        self._now, self._taken = EPOCH, 0

    def open(self, way: Way) -> Broker:
        store = Store(
            "store", sync=way.sync, read_only=False, segment_bytes=way.segment_bytes,
            clock=lambda: self._now, disk=self.disk, background=False,
        )  # fmt: skip
        return Broker(store)

    def kill(self, broker: Broker) -> None:
        self.disk = self.disk.after_kill()
        self._now += HELD_SECONDS

    def crowd(self) -> None:
        assert self.disk.capacity is not None
        self._taken = max(0, self.disk.free_bytes())
        self.disk.capacity -= self._taken

    def leave(self) -> None:
        assert self.disk.capacity is not None
        self.disk.capacity += self._taken


@contextmanager
def small() -> Iterator[None]:
    """All that is kept ahead and kept back, a sixteenth as large as it is: for disks of a megabyte."""
    with (
        mock.patch.multiple(
            rotation, ALLOCATE_BYTES=64 << 10, STARVED_BYTES=4 << 10, FULL_SEGMENT_BYTES=32 << 10
        ),
        mock.patch.multiple(room, GRANT_BYTES=8 << 10, AHEAD_BYTES=8 << 10),
        mock.patch.multiple(
            pressure, RESERVE_BYTES=80 << 10, LEFT_BYTES=48 << 10, LEAST_BYTES=16 << 10, UNSEEN=350,
            GRANT_BYTES=8 << 10,
        ),
        mock.patch.object(reserve, "UNIT_BYTES", 4 << 10),
    ):  # fmt: skip
        yield


def hunt(ways: Iterable[Way]) -> str:
    """The search on small simulated disks."""
    with small():
        return search(Simulated, ways)


@click.command()
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(seconds: float, seed: int) -> None:
    """Fill and drain simulated disks, way after way."""
    until = time.monotonic() + seconds
    seeds = itertools.takewhile(lambda _: time.monotonic() < until, itertools.count(seed))
    found = hunt(draw(each, LARGEST_BYTES) for each in seeds)
    click.echo(found or "no way was refused")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
