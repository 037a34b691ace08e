"""What was measured, and what is made of it: medians, ranges, ratios."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.bench.peer import Durability
from benchmarks.bench.workload import Group, Metric
from benchmarks.bench.workloads import WORKLOADS

VERSION = 1
OURS, BEFORE = "mq", "mq-before"


class Figure(NamedTuple):
    """Of several rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Outcome:
    """Of one measurement: values, or why there are none."""

    group: Group
    peer: str
    round: int
    values: dict[str, float]
    series: dict[str, list[tuple[float, float]]]
    failed: str = ""


class PeerInfo(NamedTuple):
    name: str
    title: str
    version: str
    on_return: str
    killed: str
    power: str
    processes: str
    redelivery: str
    survives: bool
    floor: bool


@dataclass
class Results:
    machine: dict[str, str]
    rounds: int  # some groups have fewer
    peers: list[PeerInfo]
    left_out: dict[str, str]  # why, by the name of the peer
    outcomes: list[Outcome] = field(default_factory=list)
    finished: bool = False

    def write(self, path: Path) -> None:
        """In place of what is there, as a whole."""
        scratch = path.with_name(path.name + ".new")
        scratch.write_text(self.text())
        scratch.replace(path)

    def text(self) -> str:
        told = {"version": VERSION, **asdict(self)}
        told["peers"] = [peer._asdict() for peer in self.peers]
        for each, outcome in zip(told["outcomes"], self.outcomes, strict=True):
            each["group"] = outcome.group._asdict()
        return json.dumps(told, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        told: dict[str, Any] = json.loads(path.read_text())
        if told.pop("version") != VERSION:
            raise ValueError(f"{path} is of another version of the bench")
        told["peers"] = [PeerInfo(**peer) for peer in told["peers"]]
        told["outcomes"] = [
            Outcome(**{**outcome, "group": Group(**outcome["group"])}) for outcome in told["outcomes"]
        ]
        results = cls(**told)
        results.count_rounds()
        return results

    def count_rounds(self) -> None:
        """There may be fewer than were asked for: a run was interrupted, or its time was over."""
        self.rounds = max(1, len({outcome.round for outcome in self.outcomes}))

    # ── what is there ──────────────────────────────────────────────────────────────

    def groups(self, *workloads: str) -> list[Group]:
        """In the order of the workloads."""
        found = {outcome.group for outcome in self.outcomes if outcome.group.workload in workloads}
        order = list(WORKLOADS)
        return sorted(found, key=lambda group: (order.index(group.workload), group[1:]))

    def settings(self, *workloads: str) -> list[tuple[Durability, bool, int]]:
        """Durability, slow disk, and size of bodies, of what was measured of these workloads."""
        found = {(group.durability, group.slow, group.body_bytes) for group in self.groups(*workloads)}
        return sorted(found, key=lambda each: (each[2], each[0] != "durable", each[1]))

    def peers_of(self, *groups: Group) -> list[PeerInfo]:
        named = {outcome.peer for outcome in self.outcomes if outcome.group in groups}
        return [peer for peer in self.peers if peer.name in named]

    def of(self, group: Group, peer: str) -> list[Outcome]:
        return [each for each in self.outcomes if each.group == group and each.peer == peer]

    def failures(self) -> dict[tuple[Group, str], str]:
        """The first reason, by group and peer."""
        found: dict[tuple[Group, str], str] = {}
        for outcome in self.outcomes:
            if outcome.failed:
                found.setdefault((outcome.group, outcome.peer), outcome.failed)
        return found

    def failed(self, group: Group, peer: str) -> bool:
        return any(outcome.failed for outcome in self.of(group, peer))

    # ── figures ────────────────────────────────────────────────────────────────────

    def figure(self, group: Group, peer: str, metric: Metric) -> Figure | None:
        """In the metric's unit; None if there is none, or if a measurement failed."""
        if self.failed(group, peer):
            return None
        return figure_of([value * metric.scale for value in self._values(group, peer, metric).values()])

    def ratio(self, group: Group, peer: str, metric: Metric) -> Figure | None:
        """How many times as good mq is, within each round."""
        if self.failed(group, peer) or self.failed(group, OURS):
            return None
        ours, theirs = self._values(group, OURS, metric), self._values(group, peer, metric)
        found = []
        for round in ours.keys() & theirs.keys():
            better, worse = ours[round], theirs[round]
            if not metric.more_is_better:
                better, worse = worse, better
            if worse > 0:
                found.append(better / worse)
        return figure_of(found)

    def _values(self, group: Group, peer: str, metric: Metric) -> dict[int, float]:
        """By round."""
        outcomes = self.of(group, peer)
        return {each.round: each.values[metric.name] for each in outcomes if metric.name in each.values}

    def line(self, group: Group, peer: str, name: str) -> list[tuple[float, Figure]]:
        """A series, over the rounds: those points that all of them have."""
        lines = [each.series[name] for each in self.of(group, peer) if name in each.series]
        found = []
        for points in zip(*lines, strict=False):
            figure = figure_of([y for _, y in points])
            assert figure
            found.append((points[0][0], figure))
        return found


def figure_of(values: list[float]) -> Figure | None:
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def together(parts: list[Results]) -> Results:
    """One result of runs that were about different workloads or peers.  The machine is the first one's."""
    first, *others = parts
    for each in others:
        first.outcomes += each.outcomes
        first.peers += [peer for peer in each.peers if peer.name not in {known.name for known in first.peers}]
        first.left_out |= each.left_out
        first.rounds = max(first.rounds, each.rounds)
        first.finished &= each.finished
    return first
