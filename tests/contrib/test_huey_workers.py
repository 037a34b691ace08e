"""huey on mq with real consumers: threads, processes and greenlets; killed consumers and producers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huey", reason='huey is not installed: pip install "mq[huey]"')

from huey.api import chord
from huey.exceptions import ResultTimeout, TaskException
from workplace import LEASE, PATIENCE, Workplace, load, until

import mq

GREEN = """
from gevent import monkey
monkey.patch_all()
from huey.bin.huey_consumer import consumer_main
consumer_main()
"""


class Site(Workplace):
    queue = "app"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.url = f"mq:///{place}/data?sync=0.1&visibility_timeout={LEASE}"
        os.environ["HUEY_STORE"] = self.url
        self.tasks: Any = load("huey_app")
        self.huey = self.tasks.huey

    def environment(self, **settings: object) -> dict[str, str]:
        return {**super().environment(), "HUEY_STORE": self.url, "HUEY_SETTINGS": json.dumps(settings)}

    def consumer(self, kind: str = "thread", *arguments: str, **settings: object) -> subprocess.Popen[bytes]:
        program = ["-c", GREEN] if kind == "greenlet" else ["-m", "huey.bin.huey_consumer"]
        command = [*program, "huey_app.huey", "-k", kind, "-w", "2", "-n", *arguments]
        return self.start_process(*command, ready="commands are available", **settings)

    def close(self) -> None:
        super().close()
        self.huey.storage.close()


# ── what a consumer does, with each kind of worker ─────────────────────────────────


@pytest.mark.parametrize("kind", ["thread", "process", "greenlet"])
def test_a_consumer_runs_what_huey_has(site: Site, kind: str) -> None:
    if kind == "greenlet":
        pytest.importorskip("gevent", reason="gevent is not installed")
    consumer = site.consumer(kind)
    tasks = site.tasks

    def get(result: Any) -> Any:
        return result.get(blocking=True, timeout=PATIENCE)

    assert get(tasks.add(2, 3)) == 5
    assert get(site.huey.enqueue(tasks.add.s(1, 1).then(tasks.add, 5))) == [2, 7]
    assert get(site.huey.enqueue(chord([tasks.add.s(n, n) for n in range(5)], tasks.total))) == 20
    assert get(tasks.add.map([(1, 1), (2, 2)])) == [2, 4]
    assert get(tasks.stubborn(site.log, 3)) == 3
    with pytest.raises(TaskException, match="by design"):
        get(tasks.fail("by design"))
    begin = time.time()
    assert get(tasks.add.schedule((1, 1), delay=LEASE + 0.2)) == 2
    assert time.time() - begin >= LEASE + 0.2, "and longer than the visibility timeout"
    site.huey.revoke_by_id("to come")
    site.huey.enqueue(tasks.add.s(1, 1, id="to come", delay=0.3))
    with pytest.raises(ResultTimeout):
        site.huey.result("to come", blocking=True, timeout=0.5)
    with pytest.raises(TaskException, match="RateLimitExceeded"):
        get(tasks.scarce()) and get(tasks.scarce())
    first = tasks.locked(site.gate)
    until(lambda: site.huey.is_locked("one at a time"))
    with pytest.raises(TaskException, match="unable to acquire lock"):
        get(tasks.locked(site.gate))
    Path(site.gate).touch()
    assert get(first) == 1
    if kind != "thread":  # huey stops no thread
        with pytest.raises(TaskException, match="timeout"):
            get(tasks.slow())
    until(site.is_idle, "something was left behind")
    os.remove(site.gate)
    tasks.held(site.log, site.gate)
    until(lambda: any("begun" in line for line in site.lines()))
    consumer.send_signal(signal.SIGTERM)  # at once: huey loses the task
    assert consumer.wait(PATIENCE) == 0
    with mq.open(site.place / "data", read_only=True) as broker:
        (task,) = broker.queue("app").peek()
    assert task.attempts == 0, "it was given back, and counts as not tried"
    assert site.stats().failed == 0


# ── what is killed, and what is told to end ────────────────────────────────────────


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    consumer = site.consumer()
    result = site.tasks.held(site.log, site.gate)
    until(site.lines)
    site.outlast_lease()
    assert len(site.lines()) == 1 and site.stats().in_flight == 1
    consumer.send_signal(signal.SIGKILL)
    consumer.wait()
    site.consumer("process")
    until(lambda: len(site.lines()) == 2, "it did not come back")
    Path(site.gate).touch()
    assert result.get(blocking=True, timeout=PATIENCE) == 7
    assert [line.split()[0] for line in site.lines()].count("done") == 1
    until(site.is_idle)


def test_a_task_that_kills_its_worker_ends_in_the_dead_letters_and_comes_back_by_replay(site: Site) -> None:
    """Workers are processes: the consumer lives, and puts another one in the place of the first."""
    result = site.tasks.deadly(site.log, site.gate)
    site.consumer("process", "-c", "0.1", max_attempts=1)
    until(lambda: site.stats("app.dead").ready == 1)
    assert site.lines() == ["begun"]
    assert "deadly" in site.mq("dead", "show", "app.dead")
    Path(site.gate).touch()
    site.mq("dead", "replay", "--all", "app.dead")
    assert result.get(blocking=True, timeout=PATIENCE) == "survived"


PRODUCE = """
import sys
from huey_app import run
number = int(sys.argv[2])
while True:
    run(sys.argv[1], number)
    print(number, flush=True)
    number += 1
"""


def test_nothing_is_lost_and_nothing_acked_runs_again_whichever_process_is_killed(site: Site) -> None:
    """Two consumers on one store, one killed while it works; producers, each killed while it publishes."""
    victim = site.consumer("thread", results=False)
    site.consumer("process", results=False)
    site.require_all_run(PRODUCE, 500, site.log, meanwhile=lambda: site.kill(victim), again=2)


def test_a_consumer_that_is_to_end_finishes_what_runs(site: Site) -> None:
    consumer = site.consumer("process")
    results = [site.tasks.held(site.log, site.gate) for _ in range(3)]
    until(lambda: len(site.lines()) == 2)
    consumer.send_signal(signal.SIGINT)
    until(lambda: "gracefully" in (site.place / "out0").read_text())
    Path(site.gate).touch()
    assert consumer.wait(PATIENCE) == 0
    assert sum(each.is_ready() for each in results) == 2
    assert site.stats()[:3] == (1, 0, 0) and site.stats().failed == 0
