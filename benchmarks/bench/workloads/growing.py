"""What an operation costs when there is more of what it does not concern: messages, queues, segments.

Publish, receive and ack, a few hundred of each at a time, while the store grows by tens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks.bench.bodies import Ledger, make
from benchmarks.bench.loops import FILL
from benchmarks.bench.peer import Peer
from benchmarks.bench.workload import Budget, Case, Metric, Sample, Workload, receives

OPERATIONS = ("publish", "receive", "ack")
PARTS = 5  # of which the median is taken
PART_MAX = 400  # operations of a kind
SEGMENT_BYTES = 256 << 10
RAW = attrgetter("raw")
METRICS = tuple(Metric(name, f"{name}, the most of the least", "×") for name in OPERATIONS)

Points = list[tuple[float, float]]


def powers(first: int, last: int) -> Iterator[int]:
    """first, 10 first, … up to *last*; *last* alone if it is smaller."""
    size = min(first, last)
    while size <= last:
        yield size
        size *= 10


class Operations:
    """The three operations, and what one of each takes."""

    def __init__(
        self,
        publish: Callable[[bytes], Any],
        receive: Callable[[], Any],
        body: Callable[[Any], bytes],
        ack: Callable[[Any], Any],
    ) -> None:
        self._publish, self._receive, self._body, self._ack = publish, receive, body, ack
        self.series: dict[str, Points] = {name: [] for name in OPERATIONS}

    def measure(self, size: int, parts: list[list[bytes]]) -> list[bytes]:
        """Publish all of *parts*, and receive and ack as many, beside *size* of something; the bodies."""
        took: dict[str, list[float]] = {name: [] for name in OPERATIONS}
        received: list[bytes] = []
        for bodies in parts:
            first = time.perf_counter()
            for body in bodies:
                self._publish(body)
            second = time.perf_counter()
            messages = [self._receive() for _ in bodies]
            third = time.perf_counter()
            received += map(self._body, messages)
            fourth = time.perf_counter()
            for message in messages:
                self._ack(message)
            fifth = time.perf_counter()
            spans = second - first, third - second, fifth - fourth
            for name, span in zip(OPERATIONS, spans, strict=True):
                took[name].append(span / len(bodies))
        for name in OPERATIONS:
            self.series[name].append((size, statistics.median(took[name])))
        return received

    def sample(self) -> Sample:
        """The values: how much the dearest point of the series is of the first."""
        values = {}
        for name, points in self.series.items():
            values[name] = max(took for _, took in points) / points[0][1]
        return Sample(values, self.series)


class Numbered:
    """Bodies with one number after the other."""

    def __init__(self, size: int) -> None:
        self._size, self._numbers = size, count()
        self.made = 0

    def next(self, many: int) -> list[bytes]:
        self.made += many
        return make([next(self._numbers) for _ in range(many)], self._size)

    def parts(self, most: int) -> list[list[bytes]]:
        return [self.next(max(1, min(PART_MAX, most // PARTS))) for _ in range(PARTS)]


def waiting(peer: Peer, case: Case, directory: Path) -> Sample:
    bodies, ledger = Numbered(case.body_bytes), Ledger(case.body_bytes)
    until = time.perf_counter() + case.budget.seconds
    with closing(peer.open(directory, case.durability, False)) as queue:
        operations = Operations(queue.publish, lambda: queue.receive(0), queue.body, queue.ack)
        there = 0
        for size in powers(1000, case.budget.messages):
            while there < size and time.perf_counter() < until:
                batch = bodies.next(min(FILL, size - there))
                queue.publish_many(batch)
                there += len(batch)
            if there < size:
                break
            parts = bodies.parts(size)
            ledger.published(range(bodies.made))
            ledger.found(operations.measure(size, parts))
        ledger.published(range(bodies.made))
        ledger.found(queue.remaining())
    ledger.check()
    if not peer.acks:
        del operations.series["ack"]
    return operations.sample()


def is_mq(peer: Peer) -> bool:
    return peer.name.startswith("mq")


def queues(peer: Peer, case: Case, directory: Path) -> Sample:
    """Each with a message that waits; the operations are on one more."""
    import mq

    bodies, ledger = Numbered(case.body_bytes), Ledger(case.body_bytes)
    with mq.open(directory / "mq", sync="never") as broker:
        queue = broker.queue("bench")
        operations = Operations(queue.publish, lambda: queue.receive(0), RAW, mq.Delivery.ack)
        there = 0
        for size in powers(1, case.budget.messages):
            for number in range(there, size):
                broker.queue(f"queue-{number}").publish(b"one")
            there = size
            parts = bodies.parts(40 * case.budget.messages)
            ledger.published(range(bodies.made))
            ledger.found(operations.measure(size, parts))
        assert len(broker.queues()) == there + 1
    ledger.check()
    return operations.sample()


def segments(peer: Peer, case: Case, directory: Path) -> Sample:
    """Of messages that wait, in small segments."""
    import mq

    bodies, ledger = Numbered(case.body_bytes), Ledger(case.body_bytes)
    with mq.open(directory / "mq", sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("bench")
        operations = Operations(queue.publish, lambda: queue.receive(0), RAW, mq.Delivery.ack)
        for size in powers(1, case.budget.messages):
            while broker.stats().segments < size:
                queue.publish_many(bodies.next(100))
            parts = bodies.parts(40 * case.budget.messages)
            ledger.published(range(bodies.made))
            ledger.found(operations.measure(size, parts))
        while messages := queue.receive_many(FILL, timeout=0):
            ledger.found(message.raw for message in messages)
            queue.ack_many(messages)
    ledger.check()
    return operations.sample()


def workload(
    name: str, title: str, run: Callable[[Peer, Case, Path], Sample], full: int, quick: int, body_bytes: int
) -> Workload:
    return Workload(
        name=name,
        title=title,
        run=run,
        metrics=METRICS,
        full=(Budget(full, 120.0),),
        quick=(Budget(quick, 3.0),),
        suits=receives if run is waiting else is_mq,
        body_sizes=(body_bytes,),
        durabilities=("buffered",),
        rounds_max=3,
        patience=900.0,
    )


WAITING = workload("growth-waiting", "growth of messages that wait", waiting, 10_000_000, 10_000, 100)
QUEUES = workload("growth-queues", "growth of queues", queues, 10_000, 100, 100)
SEGMENTS = workload("growth-segments", "growth of segments", segments, 1_000, 10, 1024)
