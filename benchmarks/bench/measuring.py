"""One measurement: the role of a process that does nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bench.link import Link
from benchmarks.bench.peers import PEERS
from benchmarks.bench.workload import Budget, Case
from benchmarks.bench.workloads import WORKLOADS

ROLE = "benchmarks.bench.measuring:measure"


def measure(link: Link, case: dict[str, Any], directory: str) -> Any:
    """The sample, as a dict."""
    told = Case(**{**case, "budget": Budget(*case["budget"])})
    return asdict(WORKLOADS[told.workload].run(PEERS[told.peer], told, Path(directory)))
