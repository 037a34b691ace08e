"""A store with real workers of a task library: started, looked at, killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from click.testing import CliRunner

import mq
from mq.cli import cli

HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds, for what comes at once on a machine that is not busy
LEASE = 6.0  # seconds of visibility timeout: a worker that stands still for half of that loses no task
APART = 100_000  # numbers that one producer publishes at most


def until(done: Callable[[], Any], what: str = "") -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end, what or "it took too long"
        time.sleep(0.02)
    return found


def load(name: str) -> ModuleType:
    """The module of that name beside this one, anew: it reads its store from the environment."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Workplace:
    """A store, and the processes that work on it."""

    queue = ""  # that tasks go to

    def __init__(self, place: Path) -> None:
        self.place = place
        self.log, self.gate = str(place / "log"), str(place / "gate")
        self.processes: list[subprocess.Popen[bytes]] = []

    # ── processes ──────────────────────────────────────────────────────────────────

    def environment(self, **settings: object) -> dict[str, str]:
        """Of a process that finds the modules beside this one; *settings* are the library's own."""
        roots = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}

    def start_process(self, *arguments: str, ready: str = "", **settings: object) -> subprocess.Popen[bytes]:
        """Python with these arguments.  *ready*: what it says once it works."""
        number = len(self.processes)
        with (self.place / f"out{number}").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *arguments], cwd=self.place,
                env=self.environment(**settings), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        until(lambda: ready in self.said(number), "the worker does not start")
        return process

    def said(self, number: int) -> str:
        return (self.place / f"out{number}").read_text(errors="replace")

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Also those that it has started, at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for each in self.processes:
            with suppress(ProcessLookupError):  # nothing is left of it
                self.kill(each)

    # ── what there is ──────────────────────────────────────────────────────────────

    def lines(self) -> list[str]:
        try:
            return Path(self.log).read_text().splitlines()
        except FileNotFoundError:
            return []

    def stats(self, queue: str = "") -> mq.Stats:
        with mq.open(self.place / "data", read_only=True) as broker:
            return broker.queue(queue or self.queue).stats()

    def outlast_lease(self) -> None:
        """Return when the lease of the one task in flight, as it is now, would be over."""
        with mq.open(self.place / "data", read_only=True) as broker:
            (task,) = broker.queue(self.queue).peek(state="in_flight")
        until(lambda: datetime.now(UTC) > task.due_at)

    def is_idle(self) -> bool:
        return self.stats()[:3] == (0, 0, 0)

    def mq(self, *arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-s", str(self.place / "data"), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    # ── killed producers ───────────────────────────────────────────────────────────

    def require_all_run(
        self, produce: str, count: int, *arguments: str, meanwhile: Callable[[], object], again: int
    ) -> None:
        """Two producers, each killed while it publishes; each task runs, and at most *again* run again.

        *produce*: a program that publishes one number after the other, from that of its last argument on, and
        prints each; it is killed once it has printed *count*.  *meanwhile*: called between the two.
        """
        published: list[int] = []
        for number in range(2):
            command = [sys.executable, "-W", "ignore", "-c", produce, *arguments, str(number * APART)]
            producer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment())
            assert producer.stdout
            mine = [int(producer.stdout.readline()) for _ in range(count)]
            producer.kill()
            published += mine + [int(line) for line in producer.communicate()[0].splitlines()]
            if number == 0:
                meanwhile()
        until(self.is_idle, "the other worker does not finish")
        ran = Counter(int(line) for line in self.lines())
        assert set(published) <= ran.keys(), "a task is lost"
        # The last of each producer may be published, and not printed; those that were held run again.
        assert ran.keys() - set(published) <= {
            max(n for n in published if n // APART == part) + 1 for part in (0, 1)
        }
        assert sum(each - 1 for each in ran.values()) <= again, "more ran again than one worker can hold"
