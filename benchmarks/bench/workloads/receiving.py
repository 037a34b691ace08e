"""Receiving and acking what is there: one at a time, and a hundred at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make
from benchmarks.bench.meter import Meter
from benchmarks.bench.peer import Peer, Queue
from benchmarks.bench.workload import PROCESSOR, RATE, SYNCS, Budget, Case, Sample, Workload

WARM_UP = 10
FILL_SECONDS = 10.0

Receive = Callable[[Queue, int, float], list[bytes]]
"""Receive and ack up to so many, up to that time; the bodies."""


def one_at_a_time(queue: Queue, count: int, until: float) -> list[bytes]:
    return loops.receive_each(queue, count, until)


def a_hundred_at_a_time(queue: Queue, count: int, until: float) -> list[bytes]:
    return loops.receive_batches(queue, loops.BATCH, until)


def run(receive: Receive, peer: Peer, case: Case, directory: Path) -> Sample:
    ledger = Ledger(case.body_bytes)
    bodies = make(range(WARM_UP + case.budget.messages), case.body_bytes)
    with closing(peer.open(directory, case.durability, False)) as queue:
        filled = loops.fill(queue, bodies, time.perf_counter() + FILL_SECONDS)
        ledger.published(range(filled))
        ledger.found(loops.receive_each(queue, WARM_UP, float("inf")))
        with Meter(queue.pids()) as meter:
            received = receive(queue, filled - WARM_UP, meter.begin + case.budget.seconds)
        count = ledger.found(received)
        ledger.found(queue.remaining())
    ledger.check()
    return Sample(meter.values(count))


def workload(name: str, title: str, receive: Receive, messages: int) -> Workload:
    return Workload(
        name=name,
        title=title,
        run=partial(run, receive),
        metrics=(RATE, SYNCS, PROCESSOR),
        full=(Budget(messages, 2.0),),
        quick=(Budget(messages // 10, 0.2),),
    )


ONE = workload("receive", "receive and ack", one_at_a_time, 50_000)
BATCH = workload("receive-100", "receive and ack, in hundreds", a_hundred_at_a_time, 50_000)
