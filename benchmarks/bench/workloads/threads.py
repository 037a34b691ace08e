"""Publishers and receivers in the threads of one process, from the first publish to the last ack."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make, stop
from benchmarks.bench.crew import Crew
from benchmarks.bench.meter import Meter
from benchmarks.bench.peer import Peer, Queue
from benchmarks.bench.workload import PROCESSOR, RATE, SYNCS, Budget, Case, Sample, Workload


def receiver(queue: Queue, size: int, until: float) -> list[bytes]:
    """Until a message says stop, whatever the time."""
    return loops.consume(queue, size)


def run(publishers: int, receivers: int, peer: Peer, case: Case, directory: Path) -> Sample:
    ledger = Ledger(case.body_bytes)
    share = max(1, case.budget.messages // publishers)
    slices = loops.batches(make(range(share * publishers), case.body_bytes), share)
    with closing(peer.open(directory, case.durability, False)) as queue:
        warm_up(queue, case.body_bytes)
        taking = Crew([partial(receiver, queue, case.body_bytes)] * receivers)
        giving = Crew([partial(loops.each, queue.publish, part) for part in slices])
        with Meter(queue.pids()) as meter:
            taking.go(case.budget.seconds)
            giving.go(case.budget.seconds)
            done = giving.results()
            for _ in range(receivers):
                queue.publish(stop(case.body_bytes))
            received = taking.results()
    for index, count in enumerate(done):
        ledger.published(range(index * share, index * share + count))
    count = sum(map(ledger.found, received))
    ledger.check()
    return Sample(meter.values(count))


def warm_up(queue: Queue, size: int) -> None:
    """A few through the queue, one after the other, before anything is counted."""
    for body in make(range(10), size):
        queue.publish(body)
        queue.ack(queue.receive(loops.RECEIVE_SECONDS))


def workload(name: str, publishers: int, receivers: int) -> Workload:
    return Workload(
        name=name,
        title=f"{publishers} + {receivers} threads",
        run=partial(run, publishers, receivers),
        metrics=(RATE, SYNCS, PROCESSOR),
        full=(Budget(20_000, 2.0),),
        quick=(Budget(2_000, 0.2),),
    )


ONE_AND_ONE = workload("threads-1-1", 1, 1)
TEN_AND_FIVE = workload("threads-10-5", 10, 5)
