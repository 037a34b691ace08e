"""Celery on mq with real workers: every pool, killed workers and producers, remote control, beat."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("celery", reason='Celery is not installed: pip install "mq[celery]"')

from celery import chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError, TimeoutError
from workplace import LEASE, PATIENCE, Workplace, load, until

import mq
import mq.contrib.celery


class Site(Workplace):
    queue = "celery"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.url = f"mq:///{place}/data?sync=never&visibility_timeout={LEASE}"
        os.environ["CELERY_STORE"] = self.url
        self.tasks: Any = load("celery_app")
        self.app = self.tasks.app

    def environment(self, **settings: object) -> dict[str, str]:
        return {
            **super().environment(),
            "CELERY_STORE": self.url,
            "CELERY_SETTINGS": json.dumps(settings),
            "C_FORCE_ROOT": "1",
        }

    def start(self, *arguments: str, ready: str = "", **settings: object) -> subprocess.Popen[bytes]:
        return self.start_process("-m", "celery", "-A", "celery_app", *arguments, ready=ready, **settings)

    def worker(self, name: str = "w", pool: str = "prefork", **settings: object) -> subprocess.Popen[bytes]:
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO")
        which = ("-n", f"{name}@here", "-P", pool, "-c", "2")
        return self.start("worker", *which, *quiet, ready="ready.", **settings)

    def close(self) -> None:
        super().close()
        self.app.close()
        self.app.pool.force_close_all()
        self.app.backend.results.close()


# ── what a worker does, in each pool ───────────────────────────────────────────────

POOLS = ["prefork", "threads", "solo", "gevent"]


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_runs_what_celery_has(site: Site, pool: str) -> None:
    """Results, groups, chords, chains, errors, retries, ETA, expiry, rejects; inspect, control, revokes."""
    if pool == "gevent":
        pytest.importorskip("gevent", reason="gevent is not installed")
    site.worker(pool=pool)
    tasks = site.tasks
    assert tasks.add.delay(2, 3).get(PATIENCE) == 5
    assert group(tasks.add.s(n, n) for n in range(5))().get(PATIENCE) == [0, 2, 4, 6, 8]
    assert chord([tasks.add.s(n, n) for n in range(5)], tasks.total.s())().get(PATIENCE) == 20
    nested = group(tasks.add.s(1, 1), tasks.add.si(2, 2) | group(tasks.add.si(3, 3), tasks.add.si(4, 4)))
    assert (nested | tasks.add.si(5, 5))().get(PATIENCE) == 10
    assert chain(tasks.add.s(1, 1), tasks.add.s(5))().get(PATIENCE) == 7
    assert tasks.stubborn.delay(2).get(PATIENCE) == 2
    with pytest.raises(ZeroDivisionError, match="by design"):
        tasks.fail.delay().get(PATIENCE)
    begin = time.time()
    assert tasks.add.apply_async((1, 1), countdown=0.5).get(PATIENCE) == 2
    assert time.time() - begin >= 0.5
    with pytest.raises(TaskRevokedError):
        tasks.add.apply_async((1, 1), countdown=0.3, expires=0.01).get(PATIENCE)
    with pytest.raises(TimeoutError):
        tasks.add.apply_async((1, 1), queue="no worker").get(0.05)
    tasks.reject.delay(False)
    site.app.send_task("unheard.of")
    until(lambda: site.stats("celery.dead").ready == 2)
    inspect = site.app.control.inspect(["w@here"], timeout=PATIENCE)
    assert inspect.ping() == {"w@here": {"ok": "pong"}}
    assert inspect.active_queues()["w@here"][0]["name"] == "celery"
    site.app.control.revoke("to come")
    assert "to come" in inspect.revoked()["w@here"]
    with pytest.raises(TaskRevokedError):
        tasks.add.apply_async((1, 1), task_id="to come").get(PATIENCE)
    until(lambda: site.stats()[:3] == (0, 0, 0), "something was left behind")


def test_the_canvas_of_celery(site: Site) -> None:
    """Every shape of it, with tasks that fail, are replaced and are added, and what is called then."""
    site.worker(worker_prefetch_multiplier=4)
    tasks = site.tasks
    add, total, fail = tasks.add, tasks.total, tasks.fail

    def noted(number: int) -> Any:
        return tasks.run.si(site.log, number)

    def get(signature: Any) -> Any:
        return signature.apply_async().get(PATIENCE)

    assert get(add.starmap([(1, 1), (2, 2)])) == [2, 4]
    assert get(total.map([[1, 2], [3]])) == [3, 3]
    assert get(add.chunks([(n, n) for n in range(5)], 2)) == [[0, 2], [4, 6], [8]]
    assert get(chord([add.si(n, 1) for n in range(100)], total.s())) == sum(range(1, 101))
    assert chord((add.si(n, 1) for n in range(5)), total.s())().get(PATIENCE) == sum(range(1, 6))
    twice = chord([add.si(1, 1), add.si(2, 2)], total.s())
    assert get(chord([twice, twice.clone(), add.si(3, 3)], total.s())) == 18
    assert get(group(add.si(1, 1), twice.clone(), add.si(1, 1) | add.s(1)) | total.s()) == 11
    assert sorted(get(chord([add.si(1, 1), tasks.adding.si(2, 2)], tasks.same.s()))) == [0, 2, 4]
    for how, result in ("task", 2), ("chain", 3), ("group", [2, 4]), ("chord", 6):
        assert get(tasks.replaced.si(how)) == result
        assert get(group(tasks.replaced.si(how), add.si(1, 1)) | tasks.same.s()) == [result, 2]

    with pytest.raises(ZeroDivisionError, match="by design"):
        get(add.si(1, 1) | fail.si() | noted(0))
    fail.si().link_error(noted(1)).delay()
    (add.si(1, 1) | fail.si() | noted(0)).on_error(noted(2)).delay()
    both = group(add.si(1, 1), fail.si())
    both.link_error(noted(3))
    both.delay()
    failing = chord([add.si(1, 1), fail.si()], noted(0).on_error(noted(4)))()
    error = failing.get(PATIENCE, propagate=False)
    assert isinstance(error, ChordError) and re.search(r"Dependency \S+ raised ZeroDivisionError", str(error))
    add.si(1, 1).link(noted(5)).delay()
    until(lambda: len(site.lines()) >= 5)
    until(site.is_idle)
    assert sorted(site.lines()) == ["1", "2", "3", "4", "5"]


# ── what is killed ─────────────────────────────────────────────────────────────────


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    worker = site.worker("one")
    result = site.tasks.held.delay(site.log, site.gate)
    until(site.lines)
    site.outlast_lease()
    assert len(site.lines()) == 1 and site.stats().in_flight == 1
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    site.worker("two")
    until(lambda: len(site.lines()) == 2, "it did not come back")
    Path(site.gate).touch()
    assert result.get(PATIENCE) == 7
    assert [line.split()[0] for line in site.lines()].count("done") == 1
    until(lambda: site.stats()[:3] == (0, 0, 0))


def test_a_task_that_kills_its_worker_ends_in_the_dead_letters_and_comes_back_by_replay(site: Site) -> None:
    settings = {"broker_transport_options": {"max_attempts": 2}}
    result = site.tasks.deadly.delay(site.log, site.gate)
    for attempt in (1, 2):
        worker = site.worker(f"w{attempt}", "solo", **settings)
        assert worker.wait(PATIENCE) == -signal.SIGKILL
    site.worker("last", "solo", **settings)
    until(lambda: site.stats("celery.dead").ready == 1)
    assert site.lines() == ["begun", "begun"]
    assert "deadly" in site.mq("dead", "show", "celery.dead")
    Path(site.gate).touch()
    site.mq("dead", "replay", "--all", "celery.dead")
    assert result.get(PATIENCE) == "survived"


PRODUCE = """
import sys
from celery_app import run
number = int(sys.argv[2])
while True:
    result = run.apply_async((sys.argv[1], number), ignore_result=True)
    print(number, flush=True)
    number += 1
"""


def test_nothing_is_lost_and_nothing_acked_runs_again_whichever_process_is_killed(site: Site) -> None:
    """Two workers on one store, one killed while it works; producers, each killed while it publishes."""
    site.url = site.url.replace("sync=never", "sync=0.1")
    victim = site.worker("one", "threads")
    site.worker("two", "solo")
    site.require_all_run(PRODUCE, 60, site.log, meanwhile=lambda: site.kill(victim), again=4)
    assert site.stats().failed <= 4


def test_a_worker_that_is_told_to_end_gives_back_what_it_has_not_begun(site: Site) -> None:
    worker = site.worker("one", pool="solo", worker_prefetch_multiplier=4)
    site.tasks.held.delay(site.log, site.gate)
    for number in range(3):
        site.tasks.run.delay(site.log, number)
    until(site.lines)
    worker.send_signal(signal.SIGTERM)
    Path(site.gate).touch()
    assert worker.wait(PATIENCE) == 0
    stats = site.stats()
    assert stats.in_flight == 0 and stats.failed == 0
    with mq.open(site.place / "data", read_only=True) as broker:
        assert {each.attempts for each in broker.queue("celery").peek()} <= {0}


# ── beat, events, flower ───────────────────────────────────────────────────────────


def test_two_beats_publish_each_tick_once(site: Site) -> None:
    settings = {
        "beat_schedule": {"often": {"task": "celery_app.run", "schedule": 0.5, "args": [site.log, 1]}},
    }
    beats = [
        site.start("beat", "-S", "mq.contrib.celery:Scheduler", "-l", "DEBUG", "--pidfile=", **settings)
        for _ in range(2)
    ]
    site.worker(pool="solo")
    for number in range(2):
        until(lambda number=number: "Ticking with max interval" in site.said(number), "beat does not start")
    until(lambda: len(site.lines()) >= 4)
    with mq.open(site.place / "data", read_only=True) as broker:
        (schedule,) = broker.schedules()
        assert (schedule.name, schedule.queue, schedule.every) == ("celery.beat/often", "celery.beat", 0.5)
    # A beat ends wherever it is, also between publishing and acking: so there are no more ticks before that.
    site.mq("unschedule", "celery.beat/often")
    until(lambda: site.stats("celery.beat")[:3] == (0, 0, 0))
    for each in beats:
        each.send_signal(signal.SIGTERM)
        each.wait(PATIENCE)
    with mq.open(site.place / "data", read_only=True) as broker:
        ticks, tasks = broker.queue("celery.beat").stats(), broker.queue("celery").stats()
    assert tasks.published == ticks.acked <= ticks.published
    said = site.said(0) + site.said(1)
    assert len(re.findall("Sending due task often", said)) == tasks.published


def test_events_tell_of_tasks_and_workers(site: Site) -> None:
    """What flower and `celery events` live on."""
    site.worker(pool="solo", worker_send_task_events=True, task_send_sent_event=True)
    seen: set[str] = set()
    with site.app.connection_for_read() as connection:
        receiver = site.app.events.Receiver(connection, handlers={"*": lambda event: seen.add(event["type"])})
        with receiver.consumer_context(wakeup=False) as (mine, *_):
            result = site.tasks.add.delay(1, 2)
            while not {"task-received", "task-started", "task-succeeded"} <= seen:
                mine.drain_events(timeout=PATIENCE)
        assert result.get(PATIENCE) == 3
