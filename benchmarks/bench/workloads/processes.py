"""Publishing and receiving processes, a message at a time, from the first publish to the last ack."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make, numbers_of, stop
from benchmarks.bench.link import Link, helpers
from benchmarks.bench.meter import Meter
from benchmarks.bench.peer import Durability, Peer
from benchmarks.bench.peers import PEERS
from benchmarks.bench.workload import PROCESSOR, RATE, SYNCS, Budget, Case, Sample, Workload

ROLES = "benchmarks.bench.workloads.processes"


def several(peer: Peer) -> bool:
    return peer.processes and peer.receives


def publisher(
    link: Link,
    peer: str,
    directory: str,
    durability: Durability,
    first: int,
    count: int,
    size: int,
    seconds: float,
) -> None:
    """Publishes for so many seconds at most; says how many it has published, and its processor time."""
    bodies = make(range(first, first + count), size)
    with closing(PEERS[peer].open(Path(directory), durability, True)) as queue:
        queue.publish(bodies[0])  # the warm-up
        link.ready()
        begin = time.process_time()
        done = loops.each(queue.publish, bodies[1:], time.perf_counter() + seconds)
        link.say([1 + done, time.process_time() - begin])
        link.wait()  # closing takes time too


def receiver(link: Link, peer: str, directory: str, durability: Durability, size: int) -> None:
    """Receives until it is told to stop; says that it has, then the numbers, and its processor time."""
    with closing(PEERS[peer].open(Path(directory), durability, True)) as queue:
        message = queue.receive(loops.RECEIVE_SECONDS)  # the warm-up
        first = queue.body(message)
        queue.ack(message)
        link.ready()
        begin = time.process_time()
        bodies = loops.consume(queue, size)
        used = time.process_time() - begin
        link.say(None)
        link.say([numbers_of([first, *bodies], size), used])
        link.wait()


def run(pairs: int, peer: Peer, case: Case, directory: Path) -> Sample:
    size, ledger = case.body_bytes, Ledger(case.body_bytes)
    share = max(2, case.budget.messages // pairs)
    common = {"peer": peer.name, "directory": str(directory), "durability": case.durability, "size": size}
    works: list[tuple[str, dict[str, Any]]] = []
    for index in range(pairs):
        told = {**common, "first": index * share, "count": share, "seconds": case.budget.seconds}
        works.append((f"{ROLES}:publisher", told))
    works += [(f"{ROLES}:receiver", common)] * pairs
    with closing(peer.open(directory, case.durability, True)) as queue, helpers(*works) as started:
        publishers, receivers = started[:pairs], started[pairs:]
        with Meter(queue.pids()) as meter:
            for helper in started:
                helper.go()
            done = [helper.hear() for helper in publishers]
            for _ in receivers:
                queue.publish(stop(size))
            for helper in receivers:
                helper.hear()
        received = [helper.hear() for helper in receivers]
        for helper in started:
            helper.go()
            helper.hear()
    for index, (count, _) in enumerate(done):
        ledger.published(range(index * share, index * share + count))
    count = sum(ledger.found_numbers(numbers) for numbers, _ in received)
    ledger.check()
    elsewhere = sum(used for _, used in [*done, *received])
    return Sample(meter.values(count - pairs, elsewhere))


def workload(name: str, pairs: int) -> Workload:
    return Workload(
        name=name,
        title=f"{pairs} → {pairs} processes",
        run=partial(run, pairs),
        metrics=(RATE, SYNCS, PROCESSOR),
        full=(Budget(20_000, 2.0),),
        quick=(Budget(2_000, 0.2),),
        suits=several,
    )


ONE_TO_ONE = workload("processes-1-1", 1)
TWO_TO_TWO = workload("processes-2-2", 2)
