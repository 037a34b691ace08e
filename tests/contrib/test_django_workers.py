"""Django's tasks on mq with real workers: `manage.py mq_worker`, killed workers and producers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason='Django is not installed: pip install "mq[django]"')
pytest.importorskip(
    "mq.contrib.django.framework", reason="Django < 6.0 has no tasks, nor is django-tasks there"
)

import django_app
from django.test import override_settings
from workplace import LEASE, PATIENCE, Workplace, until

from mq.contrib.django import framework
from mq.contrib.django.backend import store_at


class Site(Workplace):
    queue = "default"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.options: dict[str, Any] = {"sync": 0.1, "visibility_timeout": LEASE}
        options = {"url": str(place / "data"), **self.options}
        tasks = {"BACKEND": "mq.contrib.django.MqBackend", "QUEUES": ["default", "mail"], "OPTIONS": options}
        self.settings = override_settings(TASKS={"default": tasks})
        self.settings.enable()

    @property
    def backend(self) -> Any:
        return framework.task_backends["default"]

    def environment(self, **options: object) -> dict[str, str]:
        return {
            **super().environment(),
            "DJANGO_SETTINGS_MODULE": "django_site",
            "DJANGO_STORE": f"mq:///{self.place}/data",
            "DJANGO_OPTIONS": json.dumps({**self.options, **options}),
        }

    def worker(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        command = ("-u", "-m", "django", "mq_worker", *arguments)
        return self.start_process(*command, ready="takes tasks from", **options)

    def wait_for(self, result: Any) -> Any:
        until(lambda: result.refresh() or result.is_finished, "its task does not end")
        return result.return_value

    def close(self) -> None:
        super().close()
        self.backend.store.close()
        store_at.cache_clear()
        self.settings.disable()


def test_a_worker_runs_what_there_is_and_ends_when_it_is_told_to(site: Site) -> None:
    worker = site.worker("--concurrency", "2")
    assert site.wait_for(django_app.add.enqueue(1, 2)) == 3
    assert site.wait_for(django_app.add_async.enqueue(1, 2)) == 3
    assert site.wait_for(django_app.mail.enqueue("ann")) == "ann"
    assert site.wait_for(django_app.attempt.enqueue(3))[0] == 3
    late = django_app.add.using(run_after=datetime.now(UTC) + timedelta(seconds=LEASE + 0.2))
    begun = time.time()
    assert site.wait_for(late.enqueue(7)) == 7
    assert time.time() - begun >= LEASE + 0.2, "and longer than the visibility timeout"
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
    site.outlast_lease()
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
    victim = site.worker("--concurrency", "2")
    site.worker()
    site.require_all_run(PRODUCE, 500, site.log, meanwhile=lambda: site.kill(victim), again=2)
