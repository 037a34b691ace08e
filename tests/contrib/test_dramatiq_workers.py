"""dramatiq on mq with real workers: results, delays, killed workers and producers, dead letters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dramatiq", reason='dramatiq is not installed: pip install "mq[dramatiq]"')

import dramatiq
from workplace import LEASE, PATIENCE, Workplace, load, until

MILLISECONDS = 1000


class Site(Workplace):
    queue = "default"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.store = f"mq:///{place}/data?sync=never&visibility_timeout={LEASE}"
        os.environ["DRAMATIQ_STORE"] = self.store
        self.actors: Any = load("dramatiq_app")

    def environment(self, **settings: object) -> dict[str, str]:
        return {
            **super().environment(),
            "DRAMATIQ_STORE": self.store,
            "DRAMATIQ_SETTINGS": json.dumps(settings),
            "dramatiq_prom_db": str(self.place),  # which dramatiq makes, whether it is used or not
        }

    def worker(
        self, threads: int = 2, ready: str = "ready for action", **settings: object
    ) -> subprocess.Popen[bytes]:
        """The process that `dramatiq` starts its one worker process from; both end together."""
        command = ("-m", "dramatiq", "dramatiq_app", "-p", "1", "-t", str(threads))
        return self.start_process(*command, ready=ready, **settings)

    def close(self) -> None:
        super().close()
        self.actors.broker.close()
        dramatiq.broker.global_broker = None


def result(message: Any) -> Any:
    return message.get_result(block=True, timeout=int(PATIENCE * MILLISECONDS))


def test_a_task_longer_than_the_visibility_timeout_runs_once_and_after_sigkill_again(site: Site) -> None:
    """A delayed one is due later than that, too.  A worker that is told to end finishes what runs."""
    delayed = site.actors.add.send_with_options(args=(2, 3), delay=int((LEASE + 1) * MILLISECONDS))
    worker = site.worker()
    sent = site.actors.held.send(site.log, site.gate)
    assert result(delayed) == 5
    until(lambda: site.lines() and site.stats()[:2] == (0, 1))
    assert len(site.lines()) == 1 and site.stats().failed == 0, "for longer than the visibility timeout"
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
    for _ in range(2):  # its threads take tasks before it says that it is ready
        assert site.worker(ready="", max_attempts=2).wait(PATIENCE) != 0
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
    site.require_all_run(PRODUCE, 100, site.log, meanwhile=lambda: site.kill(victim), again=4)
    assert site.stats().failed <= 4
