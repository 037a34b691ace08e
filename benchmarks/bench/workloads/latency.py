"""How long one message takes: a publish, and the way from a publisher to a receiver that was asleep."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path

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
METRICS = tuple(Metric(name, name, "µs", 1e6) for name in SHARES)

Arrivals = list[tuple[int, float]]
"""Numbers of messages, and when a receiver had each: on a clock that all processes of a machine share."""


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
    return sample(took[WARM_UP:])


def arrivals(queue: Queue, size: int, until: float = 0.0) -> Arrivals:
    """Receive, note the time and ack, until a message says stop."""
    found: Arrivals = []
    last = stop(size)
    while True:
        message = queue.receive(loops.RECEIVE_SECONDS)
        now = time.perf_counter()
        if message is None:
            raise loops.Stuck("nothing came")
        body = queue.body(message)
        queue.ack(message)
        if body == last:
            return found
        found.append((number_of(body), now))


def publish_slowly(queue: Queue, case: Case) -> list[float]:
    """When each was published."""
    began: list[float] = []
    until = time.perf_counter() + case.budget.seconds
    for body in make(range(WARM_UP + case.budget.messages), case.body_bytes):
        time.sleep(PAUSE_SECONDS)
        began.append(now := time.perf_counter())
        queue.publish(body)
        if now > until:
            break
    queue.publish(stop(case.body_bytes))
    return began


def compare(began: list[float], came: Arrivals, case: Case) -> Sample:
    ledger = Ledger(case.body_bytes)
    ledger.published(range(len(began)))
    ledger.found_numbers([number for number, _ in came])
    ledger.check()
    return sample([when - began[number] for number, when in came if number >= WARM_UP])


def between_threads(peer: Peer, case: Case, directory: Path) -> Sample:
    with closing(peer.open(directory, case.durability, False)) as queue:
        crew = Crew([partial(arrivals, queue, case.body_bytes)])
        crew.go(0)
        began = publish_slowly(queue, case)
        [came] = crew.results()
    return compare(began, came, case)


def receiver(link: Link, peer: str, directory: str, durability: Durability, size: int) -> None:
    with closing(PEERS[peer].open(Path(directory), durability, True)) as queue:
        link.ready()
        link.say(arrivals(queue, size))
        link.wait()


def between_processes(peer: Peer, case: Case, directory: Path) -> Sample:
    told = {
        "peer": peer.name,
        "directory": str(directory),
        "durability": case.durability,
        "size": case.body_bytes,
    }
    with (
        closing(peer.open(directory, case.durability, True)) as queue,
        helpers((f"{ROLES}:receiver", told)) as [helper],
    ):
        helper.go()
        began = publish_slowly(queue, case)
        came: Arrivals = helper.hear()
        helper.go()
        helper.hear()
    return compare(began, came, case)


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
    metrics=METRICS,
    full=(Budget(1_000, 5.0),),
    quick=(Budget(100, 0.3),),
    suits=several,
    body_sizes=(100,),
)
