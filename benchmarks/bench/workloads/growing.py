"""What an operation costs when there is more of what it does not concern: messages, queues, segments.

Publish, receive and ack, a few hundred of each at a time, while the store grows by tens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
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


class Trial:
    """A queue of which the three operations are measured again and again."""

    def __init__(
        self,
        publish: Callable[[bytes], Any],
        receive: Callable[[], Any],
        body: Callable[[Any], bytes],
        ack: Callable[[Any], Any],
        case: Case,
    ) -> None:
        self._publish, self._receive, self._body, self._ack = publish, receive, body, ack
        self._body_bytes = case.body_bytes
        self.until = time.perf_counter() + case.budget.seconds
        self.ledger = Ledger(case.body_bytes)
        self.made = 0
        self.series: dict[str, Points] = {name: [] for name in OPERATIONS}

    def bodies(self, many: int) -> list[bytes]:
        """The next ones, which are published now."""
        numbers = range(self.made, self.made + many)
        self.made = numbers.stop
        self.ledger.published(numbers)
        return make(numbers, self._body_bytes)

    def measure(self, size: int, most: int) -> None:
        """What one of each takes beside *size* of something, from about so many of each."""
        took: dict[str, list[float]] = {name: [] for name in OPERATIONS}
        many = max(1, min(PART_MAX, most // PARTS))
        for _ in range(PARTS):
            for name, span in zip(OPERATIONS, self._spans(self.bodies(many)), strict=True):
                took[name].append(span / many)
            if time.perf_counter() > self.until:
                break
        for name in OPERATIONS:
            self.series[name].append((size, statistics.median(took[name])))

    def _spans(self, bodies: list[bytes]) -> tuple[float, float, float]:
        """Seconds to publish, to receive, and to ack them."""
        first = time.perf_counter()
        for body in bodies:
            self._publish(body)
        second = time.perf_counter()
        messages = [self._receive() for _ in bodies]
        third = time.perf_counter()
        self.ledger.found(map(self._body, messages))
        fourth = time.perf_counter()
        for message in messages:
            self._ack(message)
        fifth = time.perf_counter()
        return second - first, third - second, fifth - fourth

    def warm_up(self, most: int) -> None:
        """What is done once is done then."""
        self.measure(0, most)
        for points in self.series.values():
            points.clear()

    def sample(self) -> Sample:
        """The values: how much the dearest point of the series is of the first."""
        self.ledger.check()
        values = {}
        for name, points in self.series.items():
            values[name] = max(took for _, took in points) / points[0][1]
        return Sample(values, self.series)


def waiting(peer: Peer, case: Case, directory: Path) -> Sample:
    with closing(peer.open(directory, case.durability, False)) as queue:
        trial = Trial(queue.publish, lambda: queue.receive(0), queue.body, queue.ack, case)
        trial.warm_up(case.budget.messages)
        there = 0
        for size in powers(1000, case.budget.messages):
            while there < size and time.perf_counter() < trial.until:
                batch = trial.bodies(min(FILL, size - there))
                queue.publish_many(batch)
                there += len(batch)
            if there < size:
                break
            trial.measure(size, size)
        trial.ledger.found(queue.remaining())
    if not peer.acks:
        del trial.series["ack"]
    return trial.sample()


def is_mq(peer: Peer) -> bool:
    return peer.name.startswith("mq")


def queues(peer: Peer, case: Case, directory: Path) -> Sample:
    """Each with a message that waits; the operations are on one more."""
    import mq

    most = 40 * case.budget.messages
    with mq.open(directory / "mq", sync="never") as broker:
        queue = broker.queue("bench")
        trial = Trial(queue.publish, lambda: queue.receive(0), RAW, mq.Delivery.ack, case)
        trial.warm_up(most)
        there = 0
        for size in powers(1, case.budget.messages):
            for number in range(there, size):
                broker.queue(f"queue-{number}").publish(b"one")
            there = size
            trial.measure(size, most)
        assert len(broker.queues()) == there + 1
    return trial.sample()


def segments(peer: Peer, case: Case, directory: Path) -> Sample:
    """Of messages that wait, in small segments."""
    import mq

    most = 40 * case.budget.messages
    with mq.open(directory / "mq", sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("bench")
        trial = Trial(queue.publish, lambda: queue.receive(0), RAW, mq.Delivery.ack, case)
        trial.warm_up(most)
        for size in powers(1, case.budget.messages):
            while broker.stats().segments < size:
                queue.publish_many(trial.bodies(100))
            trial.measure(size, most)
        while messages := queue.receive_many(FILL, timeout=0):
            trial.ledger.found(message.raw for message in messages)
            queue.ack_many(messages)
    return trial.sample()


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
