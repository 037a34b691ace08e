"""How long one message takes: a publish, and the way from a publisher to a receiver that was asleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make, number_of, stop
from benchmarks.bench.crew import Crew
from benchmarks.bench.link import Link, helpers
from benchmarks.bench.meter import percentile
from benchmarks.bench.peer import Durability, Peer, Queue
from benchmarks.bench.peers import PEERS
from benchmarks.bench.workload import Budget, Case, Metric, Sample, Workload, any_peer, receives
from benchmarks.bench.workloads.processes import several

PAUSE_SECONDS = 0.002  # until the receiver is asleep again
WARM_UP = 10
ROLES = "benchmarks.bench.workloads.latency"
SHARES = {"p50": 0.5, "p99": 0.99}
IDLE = Metric("idle", "processor while it waits", "%", 100)
METRICS = tuple(Metric(name, name, "µs", 1e6) for name in SHARES)

Arrival = tuple[int, float]
"""The number of a message, and when a receiver had it: on a clock that all processes of a machine share."""


def sample(seconds: list[float]) -> Sample:
    return Sample({name: percentile(seconds, share) for name, share in SHARES.items()})


def publishing(peer: Peer, case: Case, directory: Path) -> Sample:
    """Each publish by itself; reading the clock is part of it, some 50 ns."""
    ledger, took = Ledger(case.body_bytes), []
    bodies = make(range(WARM_UP + case.budget.messages), case.body_bytes)
    with closing(peer.open(directory, case.durability, False)) as queue:
        publish, clock = queue.publish, time.perf_counter
        until = clock() + case.budget.seconds
        for body in bodies:
            begin = clock()
            publish(body)
            took.append((end := clock()) - begin)
            if end > until:
                break
        ledger.published(range(len(took)))
        ledger.found(queue.remaining())
    ledger.check()
    return sample(took[WARM_UP:] or took)


def receive_all(queue: Queue, size: int, tell: Callable[[Arrival], object], until: float = 0.0) -> None:
    """Receive, note the time, ack, and tell that, until a message says stop."""
    last = stop(size)
    while True:
        message = queue.receive(loops.RECEIVE_SECONDS)
        now = time.perf_counter()
        if message is None:
            raise loops.Stuck("nothing came")
        body = queue.body(message)
        queue.ack(message)
        if body == last:
            return
        tell((number_of(body), now))


def publish_all(queue: Queue, case: Case, hear: Callable[[], Arrival]) -> Sample:
    """Publish one at a time, each when the receiver is asleep after the one before."""
    ledger, took = Ledger(case.body_bytes), []
    until = time.perf_counter() + case.budget.seconds
    for number, body in enumerate(make(range(WARM_UP + case.budget.messages), case.body_bytes)):
        time.sleep(PAUSE_SECONDS)
        began = time.perf_counter()
        queue.publish(body)
        came, when = hear()
        took.append(when - began)
        ledger.published(range(number, number + 1))
        ledger.found_numbers([came])
        if when > until:
            break
    queue.publish(stop(case.body_bytes))
    ledger.check()
    return sample(took[WARM_UP:] or took)


def between_threads(peer: Peer, case: Case, directory: Path) -> Sample:
    told: SimpleQueue[Arrival] = SimpleQueue()
    with closing(peer.open(directory, case.durability, False)) as queue:
        crew = Crew([partial(receive_all, queue, case.body_bytes, told.put)])
        crew.go(0)
        found = publish_all(queue, case, partial(told.get, timeout=loops.RECEIVE_SECONDS))
        crew.results()
    return found


def receiver(
    link: Link, peer: str, directory: str, durability: Durability, size: int, idle_seconds: float
) -> None:
    """At last, it tells what share of a processor it takes to wait for a message that does not come."""
    with closing(PEERS[peer].open(Path(directory), durability, True)) as queue:
        link.ready()
        receive_all(queue, size, link.say)
        begin = time.process_time()
        queue.receive(idle_seconds)
        link.say((time.process_time() - begin) / idle_seconds)


def between_processes(peer: Peer, case: Case, directory: Path) -> Sample:
    told = {
        "peer": peer.name,
        "directory": str(directory),
        "durability": case.durability,
        "size": case.body_bytes,
        "idle_seconds": min(1.0, case.budget.messages * PAUSE_SECONDS),
    }
    with (
        closing(peer.open(directory, case.durability, True)) as queue,
        helpers((f"{ROLES}:receiver", told)) as [helper],
    ):
        helper.go()
        found = publish_all(queue, case, helper.hear)
        found.values["idle"] = helper.hear()
        helper.hear()  # it has closed
    return found


PUBLISH = Workload(
    name="latency-publish",
    title="a publish",
    run=publishing,
    metrics=METRICS,
    full=(Budget(20_000, 2.0),),
    quick=(Budget(2_000, 0.2),),
    suits=any_peer,
    body_sizes=(100,),
)
THREADS = Workload(
    name="latency-threads",
    title="hand-off between threads",
    run=between_threads,
    metrics=METRICS,
    full=(Budget(1_000, 5.0),),
    quick=(Budget(100, 0.3),),
    suits=receives,
    body_sizes=(100,),
)
PROCESSES = Workload(
    name="latency-processes",
    title="hand-off between processes",
    run=between_processes,
    metrics=(*METRICS, IDLE),
    full=(Budget(1_000, 5.0),),
    quick=(Budget(100, 0.3),),
    suits=several,
    body_sizes=(100,),
)
