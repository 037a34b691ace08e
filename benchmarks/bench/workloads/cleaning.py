"""The disk while much more goes through a queue than it ever holds."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make
from benchmarks.bench.meter import disk_bytes
from benchmarks.bench.peer import Peer, bodies_of
from benchmarks.bench.workload import Budget, Case, Metric, Sample, Workload
from benchmarks.bench.workloads.reopening import stays

STANDING = 1000  # messages that wait all the time
LOOKS = 200  # at the disk


def run(peer: Peer, case: Case, directory: Path) -> Sample:
    size, (messages, seconds) = case.body_bytes, case.budget
    ledger = Ledger(size)
    standing = min(STANDING, messages)
    step = max(1, messages // loops.BATCH // LOOKS)  # batches between two looks
    disk: list[tuple[float, float]] = []
    with closing(peer.open(directory, case.durability, False)) as queue:
        loops.fill(queue, make(range(standing), size))
        done = standing
        begin = time.perf_counter()
        while done < messages + standing and time.perf_counter() < begin + seconds:
            for _ in range(step):
                batch = make(range(done, done + loops.BATCH), size)
                queue.publish_many(batch)
                done += len(batch)
                ledger.published(range(done - len(batch), done))
                received = queue.receive_many(loops.BATCH)
                ledger.found(bodies_of(queue, received))
                queue.ack_many(received)
            disk.append(((done - standing) * size, disk_bytes(directory)))
            queue.tidy()
        took = time.perf_counter() - begin
        ledger.published(range(done))
        ledger.found(queue.remaining())
    ledger.check()
    values = {"peak": max(bytes for _, bytes in disk), "rate": (done - standing) / took}
    return Sample(values, {"disk": disk})


CLEANING = Workload(
    name="cleaning",
    title="the disk under traffic",
    run=run,
    metrics=(
        Metric("peak", "at most on the disk", "MiB", 2**-20),
        Metric("rate", "messages a second", "messages/s", more_is_better=True),
    ),
    full=(Budget(1_000_000, 60.0),),
    quick=(Budget(10_000, 1.0),),
    suits=stays,
    body_sizes=(1024,),
    durabilities=("buffered",),
    rounds_max=3,
    patience=300.0,
)
