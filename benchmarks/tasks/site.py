"""One library on one broker: a producer and a worker, each a process, and what is measured of them."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tasks.brokers import until
from benchmarks.tasks.libraries import Library

APPS = Path(__file__).parent / "apps"
PRODUCER = Path(__file__).parent / "producer.py"
IDLE_SECONDS = 4.0
LATENCY_TASKS = 50
LATENCY_PAUSE = 0.05  # seconds between two: the worker is idle again


class Measured(NamedTuple):
    """One figure of each column; of the titles and forms of columns, too."""

    enqueue: Any
    disk: Any
    syncs: Any
    drain: Any
    latency: Any
    latency_95: Any
    idle: Any


class Site:
    def __init__(self, library: Library, place: Path, store: str) -> None:
        self.app, self.command, self.place, self.log = library.app, library.worker, place, place / "log"
        search = os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", ""), os.getcwd()])
        self.environment = {
            **os.environ, "TASKS_STORE": store, "TASKS_LOG": str(self.log), "PYTHONPATH": search,
            "C_FORCE_ROOT": "1", "DJANGO_SETTINGS_MODULE": "django_settings",
        }  # fmt: skip

    def produce(self, *arguments: object) -> dict[str, float]:
        command = [sys.executable, "-W", "ignore", str(PRODUCER), self.app, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, check=True, stdout=subprocess.PIPE, text=True
        )
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Its pid."""
        with open(self.place / "worker", "ab") as output:
            worker = subprocess.Popen(
                [sys.executable, "-W", "ignore", *self.command], cwd=self.place,
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield worker.pid
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def lines(self) -> list[float]:
        return [float(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def cpu_seconds(pid: int) -> float:
    """Of the threads of a process, and of those that it has started."""
    seconds = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        seconds += int((thread / "schedstat").read_text().split()[0]) / 1e9
        seconds += sum(map(cpu_seconds, map(int, (thread / "children").read_text().split())))
    return seconds


def measure(library: Library, place: Path, store: str, tasks: int) -> Measured:
    site = Site(library, place, store)
    produced = site.produce("enqueue", tasks)
    with site.worker():
        until(lambda: len(site.lines()) >= tasks)
        done = site.lines()
        drain = (tasks - 1) / (max(done) - min(done))
    site.log.unlink()
    with site.worker() as pid:
        site.produce("late", 2, LATENCY_PAUSE)
        until(lambda: len(site.lines()) >= 2)
        site.produce("late", LATENCY_TASKS, LATENCY_PAUSE)
        late = sorted(until(lambda: site.lines() if len(site.lines()) >= LATENCY_TASKS + 2 else None)[2:])
        before = cpu_seconds(pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(pid) - before) / IDLE_SECONDS * 100
    return Measured(
        enqueue=produced["rate"],
        disk=produced["disk"],
        syncs=produced["syncs"],
        drain=drain,
        latency=statistics.median(late),
        latency_95=late[len(late) * 95 // 100],
        idle=idle,
    )
