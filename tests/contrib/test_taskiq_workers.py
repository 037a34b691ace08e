"""taskiq on mq with real workers: killed workers and producers, dead letters, a scheduler."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("taskiq", reason='taskiq is not installed: pip install "mq[taskiq]"')

from taskiq import AsyncTaskiqTask
from taskiq.kicker import AsyncKicker
from workplace import LEASE, PATIENCE, Workplace, until

import mq
from mq.contrib.taskiq import MqBroker, ResultBackend


class Site(Workplace):
    queue = "taskiq"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.store = f"mq:///{place}/data?sync=never&visibility_timeout={LEASE}"
        self.backend: ResultBackend[Any] = ResultBackend(self.store)

    def environment(self, **settings: object) -> dict[str, str]:
        return {
            **super().environment(),
            "TASKIQ_STORE": self.store,
            "TASKIQ_LOG": self.log,
            "TASKIQ_SETTINGS": json.dumps(settings),
        }

    def start(self, *arguments: str, ready: str = "", **settings: object) -> subprocess.Popen[bytes]:
        return self.start_process("-m", "taskiq", *arguments, ready=ready, **settings)

    def worker(self, **settings: object) -> subprocess.Popen[bytes]:
        """The process that taskiq starts its one worker process from."""
        command = ("worker", "taskiq_app:broker", "-w", "1", "--max-async-tasks", "2")
        return self.start(*command, ready="Listening started", **settings)

    def kick(self, task: str, *arguments: object, **labels: Any) -> AsyncTaskiqTask[Any]:
        async def kick() -> AsyncTaskiqTask[Any]:
            broker = MqBroker(self.store).with_result_backend(self.backend)
            kicker: Any = AsyncKicker(task, broker, labels)
            kicked: AsyncTaskiqTask[Any] = await kicker.kiq(*arguments)
            await broker.store.close()
            return kicked

        return asyncio.run(kick())

    def result(self, task: AsyncTaskiqTask[Any]) -> Any:
        return asyncio.run(task.wait_result(0.01, PATIENCE)).return_value

    def close(self) -> None:
        super().close()
        self.backend._opener.close()


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    """A delayed one is due later than that, too.  A worker that is told to end finishes what runs."""
    delayed = site.kick("add", 2, 3, delay=LEASE + 1)
    worker = site.worker()
    sent = site.kick("held", site.gate)
    assert site.result(delayed) == 5
    until(lambda: site.lines() and site.stats()[:2] == (0, 1))
    assert len(site.lines()) == 1 and site.stats().failed == 0, "for longer than the visibility timeout"
    site.kill(worker)
    worker = site.worker()
    until(lambda: len(site.lines()) == 2, "it did not come back")
    worker.send_signal(signal.SIGTERM)
    Path(site.gate).touch()
    assert site.result(sent) == 7
    worker.wait(PATIENCE)
    assert [line.split()[0] for line in site.lines()].count("done") == 1
    assert site.stats()[:3] == (0, 0, 0)


def test_a_task_that_kills_its_worker_ends_in_the_dead_letters_and_comes_back_by_replay(site: Site) -> None:
    """taskiq starts the worker process again each time."""
    sent = site.kick("deadly", site.gate)
    site.worker(max_attempts=2)
    until(lambda: site.stats("taskiq.dead").ready == 1)
    assert site.lines() == ["begun", "begun"]
    assert "deadly" in site.mq("dead", "show", "taskiq.dead")
    Path(site.gate).touch()
    site.mq("dead", "replay", "--all", "taskiq.dead")
    assert site.result(sent) == "survived"


PRODUCE = """
import asyncio, sys
from taskiq_app import run
async def main():
    number = int(sys.argv[1])
    while True:
        await run.kiq(number)
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


def test_nothing_is_lost_and_nothing_acked_runs_again_whichever_process_is_killed(site: Site) -> None:
    """Two workers on one store, one killed while it works; producers, each killed while it publishes."""
    site.store = site.store.replace("sync=never", "sync=0.1")
    victim = site.worker()
    site.worker()
    site.require_all_run(PRODUCE, 100, meanwhile=lambda: site.kill(victim), again=4)
    assert site.stats().failed <= 4


def test_two_schedulers_declare_a_schedule_and_each_tick_runs_once(site: Site) -> None:
    schedulers = [site.start("scheduler", "taskiq_app:scheduler") for _ in range(2)]
    for number in range(2):
        until(lambda number=number: "Startup completed" in site.said(number))
    with mq.open(site.place / "data", read_only=True) as broker:
        (schedule,) = broker.schedules()
        assert (schedule.name, schedule.queue, schedule.every) == ("taskiq/labels:tick:0", "taskiq", 1.0)
    for each in schedulers:
        site.kill(each)
    site.worker()
    until(lambda: len(site.lines()) >= 2, "no scheduler is needed")
    site.mq("unschedule", "taskiq/labels:tick:0")
    until(lambda: site.stats()[:3] == (0, 0, 0))
    assert len(site.lines()) == site.stats().published == site.stats().acked
