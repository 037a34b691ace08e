"""Celery on mq beside Celery on Redis and on kombu's filesystem transport: the same worker, the same tasks.

    pip install "mq[celery]" redis
    python benchmarks/celery.py [--tasks N] [--rounds N] [--quick] [--directory DIR]

One table, medians with the range over the rounds; in each round all brokers, one after the other, each with
stores and servers of its own:

    enqueue         no-op tasks a second, published by one process with `delay`
    drain           the same tasks a second, run by one worker that has just started (prefork, two children),
                    from its first task to its last
    latency         milliseconds from `delay` to the first line of the task, with an idle worker: median, and
                    that of 95 in 100
    idle            CPU of the worker in percent of one processor, while nothing happens

Redis runs without persistence, on a port of its own, and is left out if there is no redis-server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

IDLE_SECONDS = 5.0
LATENCY_TASKS = 50
LATENCY_PAUSE = 0.05  # seconds between two: the worker is idle again
PATIENCE = 300.0
TICKS = os.sysconf("SC_CLK_TCK")

TASKS = """
import json, os, time
from celery import Celery
try:
    import mq.contrib.celery
except ImportError:
    pass

app = Celery("bench", broker=os.environ["BROKER"])
app.conf.update(json.loads(os.environ["SETTINGS"]))
log = open(os.environ["TASKS_LOG"], "a", buffering=1)

@app.task
def nothing(): log.write(f"{time.time()}\\n")

@app.task
def late(sent): log.write(f"{(time.time() - sent) * 1000}\\n")
"""
ENQUEUE = """
import sys, time, tasks
tasks.nothing.delay()  # connects, and declares
begin = time.perf_counter()
for _ in range(int(sys.argv[1]) - 1):
    tasks.nothing.delay()
print((int(sys.argv[1]) - 1) / (time.perf_counter() - begin))
"""
ONE_BY_ONE = """
import sys, time, tasks
for _ in range(int(sys.argv[1])):
    tasks.late.delay(time.time())
    time.sleep(float(sys.argv[2]))
"""


class Measured(NamedTuple):
    enqueue: float
    drain: float
    latency: float
    latency_95: float
    idle: float


# ── brokers ────────────────────────────────────────────────────────────────────────


@contextmanager
def on_mq(place: Path, sync: str) -> Iterator[dict[str, Any]]:
    yield {"broker": f"mq:///{place}/data?sync={sync}"}


@contextmanager
def on_redis(place: Path) -> Iterator[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*command, "--dir", str(place)], stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield {"broker": f"redis://127.0.0.1:{port}/0"}
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def on_files(place: Path) -> Iterator[dict[str, Any]]:
    folders = {name: str(place / name) for name in ("messages", "control", "processed")}
    for each in folders.values():
        os.makedirs(each)
    options = {
        "data_folder_in": folders["messages"], "data_folder_out": folders["messages"],
        "control_folder": folders["control"], "processed_folder": folders["processed"],
    }  # fmt: skip
    yield {"broker": "filesystem://", "broker_transport_options": options}


BROKERS: dict[str, Callable[[Path], Any]] = {
    "mq, sync=0.1": lambda place: on_mq(place, "0.1"),
    "mq, sync=always": lambda place: on_mq(place, "always"),
    "Redis, in memory": on_redis,
    "files of kombu": on_files,
}


# ── measuring ──────────────────────────────────────────────────────────────────────


def until(done: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        if time.monotonic() > end:
            raise click.ClickException("it took too long")
        time.sleep(0.005)
    return found


class Site:
    def __init__(self, place: Path, settings: dict[str, Any]) -> None:
        self.place, self.log = place, place / "log"
        (place / "tasks.py").write_text(TASKS)
        search = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
        self.environment = {
            **os.environ, "BROKER": settings.pop("broker"), "TASKS_LOG": str(self.log),
            "SETTINGS": json.dumps(settings | {"broker_connection_retry_on_startup": True}),
            "PYTHONPATH": search, "C_FORCE_ROOT": "1",
        }  # fmt: skip

    def run(self, code: str, *arguments: object) -> str:
        command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "tasks", "worker", "-c", "2"]
        with open(self.place / "worker", "wb") as output:
            worker = subprocess.Popen(
                [*command, "-l", "WARNING"],
                cwd=self.place,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()

    def lines(self) -> list[float]:
        return [float(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def cpu_seconds(pid: int) -> float:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS + sum(map(cpu_seconds, map(int, children)))


def measure(site: Site, tasks: int) -> Measured:
    enqueue = float(site.run(ENQUEUE, tasks))
    with site.worker() as worker:
        until(lambda: len(site.lines()) >= tasks)
        done = site.lines()
        drain = (tasks - 1) / (max(done) - min(done))
        site.log.unlink()
    with site.worker() as worker:  # which writes to a new log
        site.run(ONE_BY_ONE, 2, LATENCY_PAUSE)
        until(lambda: len(site.lines()) >= 2)
        site.run(ONE_BY_ONE, LATENCY_TASKS, LATENCY_PAUSE)
        late = sorted(until(lambda: site.lines() if len(site.lines()) >= LATENCY_TASKS + 2 else None)[2:])
        before = cpu_seconds(worker.pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(worker.pid) - before) / IDLE_SECONDS * 100
    return Measured(enqueue, drain, statistics.median(late), late[len(late) * 95 // 100], idle)


def shown(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


@click.command()
@click.option("--tasks", default=3000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One round of few tasks, to see that it runs.")
@click.option("--directory", default=None, help="Where the stores are; else a temporary directory.")
def main(tasks: int, rounds: int, quick: bool, directory: str | None) -> None:
    tasks, rounds = (100, 1) if quick else (tasks, rounds)
    brokers = {
        name: each for name, each in BROKERS.items() if each is not on_redis or shutil.which("redis-server")
    }
    found: dict[str, list[Measured]] = {name: [] for name in brokers}
    for _ in range(rounds):
        for name, broker in brokers.items():
            with tempfile.TemporaryDirectory(dir=directory) as place, broker(Path(place)) as settings:
                found[name].append(measure(Site(Path(place), settings), tasks))
    click.echo(f"{tasks:,} tasks that do nothing, {rounds} rounds: median (least to most)")
    forms = Measured(",.0f", ",.0f", ".1f", ".1f", ".1f")
    for name, measured in found.items():
        click.echo(name)
        for field, form in forms._asdict().items():
            click.echo(f"    {field:12}{shown([getattr(each, field) for each in measured], form)}")


if __name__ == "__main__":
    main()
