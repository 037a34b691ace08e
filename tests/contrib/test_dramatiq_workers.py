"""dramatiq on mq with real workers: results, delays, killed workers and producers, dead letters."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dramatiq", reason='dramatiq is not installed: pip install "mq[dramatiq]"')

import dramatiq
from click.testing import CliRunner

import mq
from mq.cli import cli

HERE = Path(__file__).parent
PATIENCE = 40.0  # seconds, for what comes at once on a machine that is not busy
MILLISECONDS = 1000


def until(done: Callable[[], Any], what: str = "") -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end, what or "it took too long"
        time.sleep(0.01)
    return found


class Site:
    """A store, and the processes that work on it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = f"mq:///{place}/data?sync=never&visibility_timeout=1"
        self.log, self.gate = str(place / "log"), str(place / "gate")
        self.processes: list[subprocess.Popen[bytes]] = []
        os.environ["DRAMATIQ_STORE"] = self.store
        spec = importlib.util.spec_from_file_location("dramatiq_app", HERE / "dramatiq_app.py")
        assert spec and spec.loader
        self.actors = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.actors)

    def environment(self, **settings: object) -> dict[str, str]:
        roots = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "DRAMATIQ_STORE": self.store,
            "DRAMATIQ_SETTINGS": json.dumps(settings),
            "PYTHONPATH": os.pathsep.join(roots),
            "dramatiq_prom_db": str(self.place),  # which dramatiq makes, whether it is used or not
        }

    def worker(self, threads: int = 2, **settings: object) -> subprocess.Popen[bytes]:
        """The process that `dramatiq` starts its one worker process from; both end together."""
        number = len(self.processes)
        output = open(self.place / f"out{number}", "wb")  # noqa: SIM115
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "dramatiq",
            "dramatiq_app",
            "-p",
            "1",
            "-t",
            f"{threads}",
        ]
        process = subprocess.Popen(
            command, cwd=self.place, env=self.environment(**settings), stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        output.close()
        self.processes.append(process)
        until(lambda: "ready for action" in self.said(number), "the worker does not start")
        return process

    def said(self, number: int) -> str:
        return (self.place / f"out{number}").read_text()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """All processes of a worker, at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def lines(self) -> list[str]:
        try:
            return Path(self.log).read_text().splitlines()
        except FileNotFoundError:
            return []

    def stats(self, queue: str = "default") -> mq.Stats:
        with mq.open(self.place / "data", read_only=True) as broker:
            return broker.queue(queue).stats()

    def mq(self, *arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-s", str(self.place / "data"), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def close(self) -> None:
        for each in self.processes:
            if each.poll() is None:
                self.kill(each)
        self.actors.broker.close()
        dramatiq.broker.global_broker = None


def result(message: Any) -> Any:
    return message.get_result(block=True, timeout=int(PATIENCE * MILLISECONDS))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    """A delayed one is due later than that, too.  A worker that is told to end finishes what runs."""
    delayed = site.actors.add.send_with_options(args=(2, 3), delay=2 * MILLISECONDS)
    worker = site.worker()
    sent = site.actors.held.send(site.log, site.gate)
    assert result(delayed) == 5
    until(lambda: site.lines() and site.stats()[:2] == (0, 1))
    assert len(site.lines()) == 1 and site.stats().failed == 0, "for twice the visibility timeout"
    site.kill(worker)
    worker = site.worker()
    until(lambda: len(site.lines()) == 2, "it did not come back")
    worker.send_signal(signal.SIGTERM)
    Path(site.gate).touch()
    assert result(sent) == 7 and worker.wait(PATIENCE) == 0
    assert [line.split()[0] for line in site.lines()].count("done") == 1
    assert site.stats()[:3] == (0, 0, 0)


def test_a_task_that_kills_its_worker_ends_in_the_dead_letters_and_comes_back_by_replay(site: Site) -> None:
    sent = site.actors.deadly.send(site.log, site.gate)
    for _ in range(2):
        assert site.worker(max_attempts=2).wait(PATIENCE) != 0
    site.worker(max_attempts=2)
    until(lambda: site.stats("default.dead").ready == 1)
    assert site.lines() == ["begun", "begun"]
    assert "deadly" in site.mq("dead", "show", "default.dead")
    Path(site.gate).touch()
    site.mq("dead", "replay", "--all", "default.dead")
    assert result(sent) == "survived"
    assert result(site.actors.stubborn.send(site.log)) == "at last"


PRODUCE = """
import sys
from dramatiq_app import run
number = int(sys.argv[2])
while True:
    run.send(sys.argv[1], number)
    print(number, flush=True)
    number += 1
"""


def test_nothing_is_lost_and_nothing_acked_runs_again_whichever_process_is_killed(site: Site) -> None:
    """Two workers on one store, one killed while it works; producers, each killed while it publishes."""
    site.store = site.store.replace("sync=never", "sync=0.1")
    victim = site.worker()
    site.worker()
    published: list[int] = []
    for number in range(2):
        command = [sys.executable, "-W", "ignore", "-c", PRODUCE, site.log, str(number * 100_000)]
        producer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=site.environment())
        assert producer.stdout
        mine = [int(producer.stdout.readline()) for _ in range(100)]
        producer.kill()
        published += mine + [int(line) for line in producer.communicate()[0].splitlines()]
        if number == 0:
            site.kill(victim)
    until(lambda: site.stats()[:3] == (0, 0, 0), "the other worker does not finish")
    ran = Counter(int(line) for line in site.lines())
    assert set(published) <= ran.keys(), "a task is lost"
    # The last of each producer may be published, and not printed; those that the worker held run again.
    assert ran.keys() - set(published) <= {
        max(n for n in published if n // 100_000 == part) + 1 for part in (0, 1)
    }
    assert sum(count - 1 for count in ran.values()) <= 4, "more ran again than one worker can hold"
    assert site.stats().failed <= 4
