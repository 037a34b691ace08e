"""Full disks: fill one up, drain it, and fill it up again, in as many ways as there are.

    publish ──► DiskFull ──► receive, ack, …, until it is empty ──► publish ──► as many as before
                              │  pauses, in which the cleaner comes by
                              └─ restarts, kills, and other programs that take what room there is

A `Way` says how; whatever it is, no receive and no ack may be refused.  The same ways are
gone on the simulated disk, with a capacity, and on real file systems: see `Place`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import mq
from mq.broker import Broker

HELD_SECONDS = 30.0  # a visibility timeout, and more: what a killed process held comes again
AGAIN_SHARE = 0.9  # of what there was room for at first there is room for again
STEP_BYTES = 1 << 20  # what a log keeps ahead may make such a difference
PUBLISHES_MAX = 200_000


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
    seed: int = 0

    def __str__(self) -> str:
        said = f"bodies {'/'.join(map(str, self.bodies))}, segments {self.segment_bytes}, sync {self.sync}"
        said += f", by {self.batch}, pause {self.pause}, {self.ending or 'no'} ending"
        return said + ", shuffled" * self.shuffled + ", crowded" * self.crowded + f", seed {self.seed}"


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
    broker = place.open(way)
    first = fill(way, broker, rng)
    if way.crowded:
        place.crowd()
    broker = drain(way, place, broker, len(first), rng)
    if way.crowded:
        place.leave()
    again = fill(way, broker, random.Random(way.seed))
    if sum(again) < AGAIN_SHARE * sum(first) - STEP_BYTES:
        raise Refused(f"{sum(first):,} bytes at first, {sum(again):,} again: {way}")
    drain(way, place, broker, len(again), rng).close()
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
    return done


def drain(way: Way, place: Place, broker: Broker, count: int, rng: random.Random) -> Broker:
    """Receive and ack all *count* messages; the broker, another one if there were endings."""
    left = count
    steps = 0
    endings = set(rng.sample(range(count), min(count, 4))) if way.ending else set()
    try:
        while left:
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
                broker = place.open(way)
                continue
            if not taken or taken[0] is None:
                raise Refused(f"{left} of {count} are not there: {way}")
            if way.batch > 1:
                queue.ack_many(taken)
            else:
                taken[0].ack()
            left -= len(taken)
            steps += len(taken)
            if way.pause and steps // way.pause != (steps - len(taken)) // way.pause:
                broker._store.maintenance.run()
    except mq.DiskFull as error:
        raise Refused(f"{left} of {count} left: {error}: {way}") from error
    if broker.queue("mail").receive(timeout=0) is not None:
        raise Refused(f"more than {count}: {way}")
    return broker


def ways(count: int, largest: int, first: int = 0) -> Iterator[Way]:
    return (draw(seed, largest) for seed in range(first, first + count))


Open = Callable[[], Broker]
