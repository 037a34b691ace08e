"""Opening a store with many messages, after a close and after a kill, and draining it.

Each step is a process of its own, as it would be.  The clock runs from before the opening until the first
message is there; importing the library is not counted.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.bench import loops
from benchmarks.bench.bodies import Ledger, make
from benchmarks.bench.link import Link, ask
from benchmarks.bench.meter import disk_bytes, memory_bytes
from benchmarks.bench.peer import Peer
from benchmarks.bench.peers import PEERS
from benchmarks.bench.workload import Budget, Case, Metric, Sample, Workload

ROLES = "benchmarks.bench.workloads.reopening"
TRAFFIC = 1000  # messages, before the kill: half of them are received and acked

CLEAN = Metric("clean", "after a close", "ms", 1e3)
METRICS = (
    CLEAN,
    Metric("killed", "after a kill", "ms", 1e3),
    Metric("scan", "full scan", "ms", 1e3),
    Metric("memory", "memory", "MiB", 2**-20),
    Metric("mapped", "mapped files", "MiB", 2**-20),
    Metric("disk", "on the disk", "MiB", 2**-20),
    Metric("drained", "on the disk, drained", "MiB", 2**-20),
)


class TooSlow(Exception):
    """The work was not done in the time that there is for it."""


def stays(peer: Peer) -> bool:
    return peer.receives and peer.stays


def fill(link: Link, peer: str, directory: str, count: int, size: int, seconds: float, kill: bool) -> Any:
    """Publish so many messages, within so many seconds; how many they are, and how many are acked.

    With *kill*, some traffic follows, and the process dies once it has told.
    """
    queue = PEERS[peer].open(Path(directory), "buffered", False)
    until = time.perf_counter() + seconds
    done = acked = 0
    while done < count and time.perf_counter() < until:
        bodies = make(range(done, min(count, done + loops.FILL)), size)
        queue.publish_many(bodies)
        done += len(bodies)
    if done < count:
        raise TooSlow(f"only {done:,} of {count:,} messages could be published in {seconds:.0f} s")
    if kill:
        for body in make(range(done, done + TRAFFIC), size):
            queue.publish(body)
            done += 1
            if done % 2:
                queue.ack(queue.receive(0))
                acked += 1
        link.say([done, acked])
        queue.kill()
    queue.close()
    return [done, acked]


def reopen(link: Link, peer: str, directory: str, other: str) -> Any:
    """Seconds until the first message is there, which is acked; and the memory that this took."""
    open_queue = PEERS[peer].open
    open_queue(Path(other), "buffered", False).close()  # what is done once in a process is done
    before = memory_bytes([os.getpid()])
    begin = time.perf_counter()
    queue = open_queue(Path(directory), "buffered", False)
    message = queue.receive(0)
    seconds = time.perf_counter() - begin
    after = memory_bytes([os.getpid(), *queue.pids()])
    queue.ack(message)
    queue.close()
    return {"seconds": seconds, "memory": after[0] - before[0], "mapped": after[1] - before[1]}


def drain(link: Link, peer: str, directory: str, size: int, seconds: float, done: int, acked: int) -> Any:
    """Receive and ack all that is not acked, for so many seconds at most; whether that was enough."""
    ledger = ledger_of(size, done, acked)
    with closing(PEERS[peer].open(Path(directory), "buffered", False)) as queue:
        drained = loops.drain(queue, time.perf_counter() + seconds, ledger)
        if not drained:
            ledger.found(queue.remaining())
    ledger.check()
    return drained


def look(link: Link, peer: str, directory: str, size: int, done: int, acked: int) -> None:
    """Nothing was lost."""
    ledger = ledger_of(size, done, acked)
    with closing(PEERS[peer].open(Path(directory), "buffered", False)) as queue:
        ledger.found(queue.remaining())
    ledger.check()


def ledger_of(size: int, done: int, acked: int) -> Ledger:
    """Of so many messages, of which the first are acked."""
    ledger = Ledger(size)
    ledger.published(range(done))
    ledger.found_numbers(list(range(acked)))
    return ledger


def run(peer: Peer, case: Case, directory: Path) -> Sample:
    other = directory / "other"
    other.mkdir()
    values = after_a_close(peer, case, directory / "closed", str(other))
    if peer.survives:
        values["killed"] = after_a_kill(peer, case, directory / "killed", str(other))
    return Sample(values)


def after_a_close(peer: Peer, case: Case, store: Path, other: str) -> dict[str, float]:
    store.mkdir()
    common: dict[str, Any] = {"peer": peer.name, "directory": str(store)}
    size, (count, seconds) = case.body_bytes, case.budget
    done, acked = ask(f"{ROLES}:fill", **common, count=count, size=size, seconds=seconds, kill=False)
    values: dict[str, float] = {"disk": disk_bytes(store)}
    found = ask(f"{ROLES}:reopen", **common, other=other)
    values |= {"clean": found["seconds"], "memory": found["memory"], "mapped": found["mapped"]}
    acked += 1
    if peer.forget:
        peer.forget(store)
        values["scan"] = ask(f"{ROLES}:reopen", **common, other=other)["seconds"]
        acked += 1
    if ask(f"{ROLES}:drain", **common, size=size, seconds=seconds, done=done, acked=acked):
        values["drained"] = disk_bytes(store)
    shutil.rmtree(store)
    return values


def after_a_kill(peer: Peer, case: Case, store: Path, other: str) -> float:
    store.mkdir()
    common: dict[str, Any] = {"peer": peer.name, "directory": str(store)}
    size, (count, seconds) = case.body_bytes, case.budget
    done, acked = ask(
        f"{ROLES}:fill", dies=True, **common, count=count, size=size, seconds=seconds, kill=True
    )
    found: float = ask(f"{ROLES}:reopen", **common, other=other)["seconds"]
    ask(f"{ROLES}:look", **common, size=size, done=done, acked=acked + 1)
    return found


REOPEN = Workload(
    name="reopen",
    title="opening, with messages that wait",
    run=run,
    metrics=METRICS,
    full=tuple(Budget(count, 60.0) for count in (1_000, 10_000, 100_000, 1_000_000)),
    quick=(Budget(1_000, 5.0), Budget(10_000, 5.0)),
    suits=stays,
    body_sizes=(100,),
    durabilities=("buffered",),
    rounds_max=3,
    patience=900.0,
)
