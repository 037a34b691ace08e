"""`mq worker`: real processes, which run what a module registers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMAND

import mq

PATIENCE = 120.0

JOBS = """
import os, sys, mq

broker = mq.open("data")

@broker.consumer("orders", concurrency=4)
def bill(order: int) -> None:
    with open("done", "a") as done:
        done.write(f"{os.getpid()} {order}\\n")
    if order == 13 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), 9)

@broker.consumer("slow")
def wait(body: int) -> None:
    open(f"begun-{body}", "w").close()
    while not os.path.exists("go"):
        pass
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


def start(home: Path, *given: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "worker", *given], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mq.__file__).parents[1])},
    )  # fmt: skip


def end(worker: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = worker.communicate(timeout=PATIENCE)
    return worker.returncode, said


@pytest.fixture
def broker(home: Path) -> Iterator[mq.Broker]:
    with mq.open(home / "data") as broker:
        yield broker


def wait_for(path: Path, worker: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not path.exists():
        assert worker.poll() is None, worker.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_several_processes_do_all_the_work_and_one_that_dies_is_begun_again(
    home: Path, broker: mq.Broker
) -> None:
    orders = broker.queue("orders", visibility_timeout=1)
    orders.publish_many(list(range(20)))
    code, said = end(start(home, "jobs", "-p", "2", "-t", "2", "--until-empty"))
    assert code == 0, said
    assert "died of SIGKILL" in said
    lines = [line.split() for line in (home / "done").read_text().splitlines()]
    assert {int(order) for _, order in lines} == set(range(20))
    assert Counter(order for _, order in lines)["13"] == 2
    assert orders.stats().acked == 20


def test_sigterm_lets_work_finish(home: Path, broker: mq.Broker) -> None:
    slow = broker.queue("slow")
    slow.publish_many([1, 2])
    worker = start(home, "jobs", "--queue", "slow")
    wait_for(home / "begun-1", worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.stderr
    while "no more is taken" not in worker.stderr.readline():  # the child has heard it
        assert worker.poll() is None
    (home / "go").touch()
    code, said = end(worker)
    assert code == 0, said
    assert slow.stats().acked == 1
    assert [each.attempts for each in slow.peek()] == [0]
    assert slow.stats().in_flight == 0


def test_a_second_signal_ends_what_is_in_work(home: Path, broker: mq.Broker) -> None:
    slow = broker.queue("slow")
    slow.publish(1)
    worker = start(home, "jobs", "--queue", "slow", "--grace", "3600")
    wait_for(home / "begun-1", worker)
    worker.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + PATIENCE
    while slow.stats().in_flight:  # the first may not have been seen when the next one comes
        worker.send_signal(signal.SIGTERM)
        assert time.monotonic() < give_up
        time.sleep(0.01)
    code, said = end(worker)
    assert code == 0, said
    assert [each.attempts for each in slow.peek()] == [0]


def test_a_child_ends_when_its_parent_is_gone(home: Path, broker: mq.Broker) -> None:
    slow = broker.queue("slow")
    slow.publish(1)
    worker = start(home, "jobs", "--queue", "slow")
    wait_for(home / "begun-1", worker)
    worker.kill()
    (home / "go").touch()
    end(worker)
    give_up = time.monotonic() + PATIENCE
    while len(broker.stats().processes) > 1:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert slow.stats().acked == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nojobs"], "no module 'nojobs'"),
        (["jobs:store"], "no broker 'store': it has broker"),
        (["jobs", "-q", "mail"], "no consumer of queue 'mail'; there are: orders, slow"),
        (["bad"], "bad cannot be imported: ZeroDivisionError"),
        (["needs"], "needs cannot be imported: No module named 'nosuch'"),
        (["empty"], "empty has no broker 'broker': open one there"),
        (["idle"], "there is no handler to run"),
    ],
)
def test_what_cannot_run_is_one_clear_line(home: Path, given: list[str], said: str) -> None:
    (home / "bad.py").write_text("1 / 0")
    (home / "needs.py").write_text("import nosuch")
    (home / "empty.py").write_text("")
    (home / "idle.py").write_text("import mq; broker = mq.open('data')")
    code, lines = end(start(home, *given, "-p", "3"))
    assert code == 2
    assert len([line for line in lines.splitlines() if line.startswith("mq: ") and said in line]) == 1
