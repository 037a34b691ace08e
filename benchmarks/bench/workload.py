"""A workload: what is measured, on how much, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench.peer import Durability, Peer


class Metric(NamedTuple):
    name: str  # of the value in a sample
    title: str
    unit: str  # of what is shown
    scale: float = 1.0  # what is shown is the value, times this
    more_is_better: bool = False


RATE = Metric("rate", "messages a second", "messages/s", more_is_better=True)
SYNCS = Metric("syncs", "waits for the disk, a message", "")
PROCESSOR = Metric("processor", "processor time, a message", "µs", 1e6)


class Budget(NamedTuple):
    """A measurement ends when one of the two is used up."""

    messages: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """One measurement: a workload with a peer."""

    workload: str
    peer: str
    body_bytes: int
    durability: Durability
    slow: bool  # a disk whose fsync takes a millisecond
    budget: Budget

    @property
    def group(self) -> Group:
        """What it is compared with."""
        return Group(self.workload, self.body_bytes, self.durability, self.slow, self.budget.messages)


class Group(NamedTuple):
    workload: str
    body_bytes: int
    durability: Durability
    slow: bool
    messages: int


@dataclass
class Sample:
    """What one measurement found, in seconds, bytes and messages a second."""

    values: dict[str, float]
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


Run = Callable[[Peer, Case, Path], Sample]


def any_peer(peer: Peer) -> bool:
    return True


def receives(peer: Peer) -> bool:
    return peer.receives


@dataclass(frozen=True)
class Workload:
    name: str  # as in --workloads
    title: str
    run: Run  # in a process of its own, in an empty directory
    metrics: tuple[Metric, ...]  # the first is what it is about
    full: tuple[Budget, ...]  # a measurement for each
    quick: tuple[Budget, ...]
    suits: Callable[[Peer], bool] = receives
    body_sizes: tuple[int, ...] = (100, 1024)
    durabilities: tuple[Durability, ...] = ("durable", "buffered")
    slow: bool = True  # also on a slow disk, if durable
    rounds_max: int = 1000
    patience: float = 120.0  # seconds, beyond the budget: then something is stuck
