"""Publishing: one at a time, a hundred at a time, and by ten threads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make
from benchmarks.bench.crew import Crew
from benchmarks.bench.meter import Meter
from benchmarks.bench.peer import Peer, Queue
from benchmarks.bench.workload import PROCESSOR, RATE, SYNCS, Budget, Case, Sample, Workload, any_peer

THREAD_COUNT = 10
WARM_UP = 10

Publish = Callable[[Queue, list[bytes], float], tuple[Meter, list[range]]]
"""Publish up to all of the bodies for so many seconds; which of them were."""


def one_at_a_time(queue: Queue, bodies: list[bytes], seconds: float) -> tuple[Meter, list[range]]:
    with Meter(queue.pids()) as meter:
        done = loops.each(queue.publish, bodies, meter.begin + seconds)
    return meter, [range(done)]


def a_hundred_at_a_time(queue: Queue, bodies: list[bytes], seconds: float) -> tuple[Meter, list[range]]:
    batches = loops.batches(bodies, loops.BATCH)
    with Meter(queue.pids()) as meter:
        done = loops.each(queue.publish_many, batches, meter.begin + seconds)
    return meter, [range(min(len(bodies), done * loops.BATCH))]


def by_threads(queue: Queue, bodies: list[bytes], seconds: float) -> tuple[Meter, list[range]]:
    share = max(1, len(bodies) // THREAD_COUNT)
    slices = loops.batches(bodies, share)[:THREAD_COUNT]
    crew = Crew([partial(loops.each, queue.publish, part) for part in slices])
    with Meter(queue.pids()) as meter:
        crew.go(seconds)
        done = crew.results()
    return meter, [range(index * share, index * share + count) for index, count in enumerate(done)]


def run(publish: Publish, peer: Peer, case: Case, directory: Path) -> Sample:
    ledger = Ledger(case.body_bytes)
    bodies = make(range(WARM_UP + case.budget.messages), case.body_bytes)
    with closing(peer.open(directory, case.durability, False)) as queue:
        loops.each(queue.publish, bodies[:WARM_UP], float("inf"))
        meter, done = publish(queue, bodies[WARM_UP:], case.budget.seconds)
        ledger.published(range(WARM_UP))
        for numbers in done:
            ledger.published(range(WARM_UP + numbers.start, WARM_UP + numbers.stop))
        if not peer.stays:
            ledger.found(queue.remaining())
    if peer.stays:
        with closing(peer.open(directory, "buffered", False)) as queue:
            ledger.found(queue.remaining())
    ledger.check()
    return Sample(meter.values(sum(map(len, done))))


def workload(name: str, title: str, publish: Publish, messages: int) -> Workload:
    return Workload(
        name=name,
        title=title,
        run=partial(run, publish),
        metrics=(RATE, SYNCS, PROCESSOR),
        full=(Budget(messages, 2.0),),
        quick=(Budget(messages // 10, 0.2),),
        suits=any_peer,
    )


ONE = workload("publish", "publish", one_at_a_time, 100_000)
BATCH = workload("publish-100", "publish, in hundreds", a_hundred_at_a_time, 100_000)
THREADS = workload("publish-threads", "publish, 10 threads", by_threads, 50_000)
