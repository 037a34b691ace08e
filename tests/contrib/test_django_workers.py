"""Django's tasks on mq with real workers: `manage.py mq_worker`, killed workers and producers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason='Django is not installed: pip install "mq[django]"')
pytest.importorskip(
    "mq.contrib.django.framework", reason="Django < 6.0 has no tasks, nor is django-tasks there"
)

import django_app
from click.testing import CliRunner
from django.test import override_settings

import mq
from mq.cli import cli
from mq.contrib.django import framework
from mq.contrib.django.backend import store_at

HERE = Path(__file__).parent
PATIENCE = 40.0  # seconds, for what comes at once on a machine that is not busy


def until(done: Callable[[], Any], what: str = "") -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        assert time.monotonic() < end, what or "it took too long"
        time.sleep(0.03)
    return found


class Site:
    """A store, and the processes that work on it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.options: dict[str, Any] = {"sync": 0.1, "visibility_timeout": 2}
        self.log, self.gate = str(place / "log"), str(place / "gate")
        self.processes: list[subprocess.Popen[bytes]] = []
        options = {"url": str(place / "data"), **self.options}
        tasks = {"BACKEND": "mq.contrib.django.MqBackend", "QUEUES": ["default", "mail"], "OPTIONS": options}
        self.settings = override_settings(TASKS={"default": tasks})
        self.settings.enable()

    @property
    def backend(self) -> Any:
        return framework.task_backends["default"]

    def environment(self, **options: object) -> dict[str, str]:
        places = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "DJANGO_STORE": f"mq:///{self.place}/data",
            "DJANGO_OPTIONS": json.dumps({**self.options, **options}),
            "PYTHONPATH": os.pathsep.join(places),
        }

    def worker(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        output = self.place / f"out{len(self.processes)}"
        command = [sys.executable, "-u", "-W", "ignore", "-m", "django", "mq_worker", *arguments]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.place, env=self.environment(**options), stdin=subprocess.DEVNULL,
                stdout=file, stderr=file,
            )  # fmt: skip
        self.processes.append(process)
        until(lambda: "takes tasks from" in output.read_text(), "the worker does not start")
        return process

    def lines(self) -> list[str]:
        try:
            return Path(self.log).read_text().splitlines()
        except FileNotFoundError:
            return []

    def stats(self, queue: str = "default") -> mq.Stats:
        return self.backend.store.broker.queue(queue).stats()

    def is_idle(self) -> bool:
        return self.stats()[:3] == (0, 0, 0)

    def wait_for(self, result: Any) -> Any:
        until(lambda: result.refresh() or result.is_finished, "its task does not end")
        return result.return_value

    def mq(self, *arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-s", str(self.place / "data"), *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def close(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()
        self.backend.store.close()
        store_at.cache_clear()
        self.settings.disable()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_worker_runs_what_there_is_and_ends_when_it_is_told_to(site: Site) -> None:
    worker = site.worker("--concurrency", "2")
    assert site.wait_for(django_app.add.enqueue(1, 2)) == 3
    assert site.wait_for(django_app.add_async.enqueue(1, 2)) == 3
    assert site.wait_for(django_app.mail.enqueue("ann")) == "ann"
    assert site.wait_for(django_app.attempt.enqueue(3))[0] == 3
    late = django_app.add.using(run_after=datetime.now(UTC) + timedelta(seconds=2.2))
    begun = time.time()
    assert site.wait_for(late.enqueue(7)) == 7
    assert time.time() - begun >= 2.2, "and longer than the visibility timeout"
    results = [django_app.held.enqueue(site.log, site.gate) for _ in range(3)]
    until(lambda: len(site.lines()) == 2)
    worker.send_signal(signal.SIGTERM)
    until(lambda: "no more is taken" in (site.place / "out0").read_text())
    Path(site.gate).touch()
    assert worker.wait(PATIENCE) == 0
    for each in results:
        each.refresh()
    assert sorted(each.status.value for each in results) == ["READY", "SUCCESSFUL", "SUCCESSFUL"]
    assert site.stats()[:3] == (1, 0, 0) and site.stats().failed == 2, "as the one task asked for"


def test_a_task_that_does_not_end_in_time_is_given_back(site: Site) -> None:
    worker = site.worker("--grace", "0.1")
    django_app.held.enqueue(site.log, site.gate)
    until(site.lines)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    (message,) = site.backend.store.queue("default").peek()
    assert message.attempts == 0


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    worker = site.worker()
    result = django_app.held.enqueue(site.log, site.gate)
    until(site.lines)
    time.sleep(2.6)  # more than the visibility timeout, which is of the store's clock
    assert len(site.lines()) == 1 and site.stats().in_flight == 1
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    site.worker()
    until(lambda: len(site.lines()) == 2, "it did not come back")
    Path(site.gate).touch()
    assert site.wait_for(result) == 7 and result.attempts == 2
    assert [line.split()[0] for line in site.lines()].count("done") == 1
    until(site.is_idle)


def test_a_task_that_kills_its_worker_ends_in_the_dead_letters_and_comes_back_by_replay(site: Site) -> None:
    result = django_app.deadly.enqueue(site.log, site.gate)
    worker = site.worker(max_attempts=1)
    assert worker.wait(PATIENCE) == -signal.SIGKILL
    site.worker(max_attempts=1)
    until(lambda: result.refresh() or result.is_finished)
    assert result.status.value == "FAILED" and site.lines() == ["begun"]
    assert "deadly" in site.mq("dead", "show", "default.dead")
    Path(site.gate).touch()
    site.mq("dead", "replay", "--all", "default.dead")
    assert site.wait_for(result) == "survived"


PRODUCE = """
import sys, django
django.setup()
from django_app import run
number = int(sys.argv[2])
while True:
    run.enqueue(sys.argv[1], number)
    print(number, flush=True)
    number += 1
"""


def test_nothing_is_lost_and_nothing_acked_runs_again_whichever_process_is_killed(site: Site) -> None:
    """Two workers on one store, one killed while it works; producers, each killed while it publishes."""
    site.options["visibility_timeout"] = 4  # a lease is lost by the killed, not by the slow
    victim = site.worker("--concurrency", "2")
    site.worker()
    published: list[int] = []
    for number in range(2):
        command = [sys.executable, "-W", "ignore", "-c", PRODUCE, site.log, str(number * 100_000)]
        producer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=site.environment())
        assert producer.stdout
        mine = [int(producer.stdout.readline()) for _ in range(500)]
        producer.kill()
        published += mine + [int(line) for line in producer.communicate()[0].splitlines()]
        if number == 0:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
    until(site.is_idle, "the other worker does not finish")
    ran = Counter(int(line) for line in site.lines())
    assert set(published) <= ran.keys(), "a task is lost"
    # The last of each producer may be published, and not printed; those that the worker held run again.
    assert ran.keys() - set(published) <= {
        max(n for n in published if n // 100_000 == part) + 1 for part in (0, 1)
    }
    assert sum(count - 1 for count in ran.values()) <= 2, "more ran again than two threads can hold"
