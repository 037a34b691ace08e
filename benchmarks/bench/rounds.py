"""The rounds: what is measured, in which order, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bench import shim
from benchmarks.bench.link import LIBRARY, Failed, Helper
from benchmarks.bench.measuring import ROLE
from benchmarks.bench.peer import Durability, Peer
from benchmarks.bench.results import BEFORE, Outcome
from benchmarks.bench.workload import Case, Workload
from benchmarks.bench.workloads import WORKLOADS

SLOW_MICROSECONDS = 1000  # what a fsync takes at least, on the slower disk


@dataclass(frozen=True)
class Plan:
    peers: list[Peer]
    workloads: list[Workload]
    rounds: int
    quick: bool
    body_sizes: list[int]
    durabilities: list[Durability]
    slow: bool  # on a slower disk too
    directory: str | None  # on the disk to measure
    seconds_max: float  # after which the first round is the last
    before: str | None  # the other checkout of mq

    def cases(self, round: int) -> list[Case]:
        """Of one round.  What is compared is measured in succession; the peers take turns to begin."""
        found: list[Case] = []
        for workload in self.workloads:
            if round >= workload.rounds_max:
                continue
            for size in workload.body_sizes:
                if size in self.body_sizes or len(workload.body_sizes) == 1:
                    found += self._of(workload, size, round)
        return found

    def _of(self, workload: Workload, size: int, round: int) -> Iterator[Case]:
        disks = [(each, False) for each in workload.durabilities if each in self.durabilities]
        if workload.slow and ("durable", False) in disks and self.slow:
            disks.insert(1, ("durable", True))
        for durability, slow in disks:
            peers = [peer for peer in self.peers if workload.suits(peer) and durability in peer.durabilities]
            for budget in workload.quick if self.quick else workload.full:
                for index in range(len(peers)):
                    peer = peers[(index + round) % len(peers)]
                    yield Case(workload.name, peer.name, size, durability, slow, budget)


Progress = Callable[[int, int, int, Case], None]
"""The round, the number of the measurement in it and of how many, and the measurement that begins."""


def run(plan: Plan, progress: Progress) -> Iterator[Outcome]:
    """Measure.  What was measured is there whenever this is interrupted."""
    began = time.monotonic()
    with workshop(plan) as measure:
        for round in range(plan.rounds):
            cases = plan.cases(round)
            for index, case in enumerate(cases):
                if round and time.monotonic() - began > plan.seconds_max:
                    return
                progress(round, index, len(cases), case)
                yield measure(case, round)


@contextmanager
def workshop(plan: Plan) -> Iterator[Callable[[Case, int], Outcome]]:
    """With the shim built, if it can be."""
    with tempfile.TemporaryDirectory(prefix="mq-bench-") as tools:
        library = None if shim.missing() else shim.build(Path(tools))

        def measure(case: Case, round: int) -> Outcome:
            environment: dict[str, str] = {}
            if library:
                least = SLOW_MICROSECONDS if case.slow else 0
                environment = shim.environment(library, Path(tools, "syncs"), least)
            if case.peer == BEFORE:
                assert plan.before
                environment[LIBRARY] = plan.before
            return one(case, round, environment, plan.directory)

        yield measure


def one(case: Case, round: int, environment: dict[str, str], directory: str | None) -> Outcome:
    """A measurement, in a new directory that is removed afterwards; then the disk is left to rest."""
    scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
    patience = case.budget.seconds + WORKLOADS[case.workload].patience
    try:
        helper = Helper(ROLE, alone=True, environment=environment, case=asdict(case), directory=scratch)
        try:
            told = helper.hear(patience)
        finally:
            helper.end()
    except Failed as failed:
        return Outcome(case.group, case.peer, round, {}, {}, str(failed))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.sync()
    return Outcome(case.group, case.peer, round, told["values"], told["series"])
