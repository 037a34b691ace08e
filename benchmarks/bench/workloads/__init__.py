"""The workloads, a file for each kind.  A new one gets its line here."""

from __future__ import annotations

from benchmarks.bench.workload import Workload
from benchmarks.bench.workloads import (
    cleaning,
    growing,
    latency,
    processes,
    publishing,
    receiving,
    reopening,
    threads,
)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        publishing.ONE,
        publishing.BATCH,
        receiving.ONE,
        receiving.BATCH,
        publishing.THREADS,
        threads.ONE_AND_ONE,
        threads.TEN_AND_FIVE,
        processes.ONE_TO_ONE,
        processes.TWO_TO_TWO,
        latency.PUBLISH,
        latency.THREADS,
        latency.PROCESSES,
        reopening.REOPEN,
        growing.WAITING,
        growing.QUEUES,
        growing.SEGMENTS,
        cleaning.CLEANING,
    )
}
