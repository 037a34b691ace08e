"""mq doctor: each finding about the processes that have a store open, or had it, in that situation."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from ill import Hold, findings, hold, names_of, quick

import mq
from mq.cli.checks import processes
from mq.storage import shared

__all__ = ["hold", "quick"]  # fixtures

PATIENCE = 60.0


WRITES = """
broker = mq.open("data", sync="never", segment_bytes=1 << 20)
print("ready", flush=True)
while True:
    broker.queue("mail").publish_many(["x" * 100] * 20)
    broker.queue("mail").ack_many(broker.queue("mail").receive_many(20, timeout=0))
"""


def test_beside_a_process_that_writes_all_the_time(
    run: Run, filled: list[int], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STUCK_SECONDS", PATIENCE)  # it may wait for a processor in its turn
    hold(WRITES)
    for _ in range(5):
        assert names_of(findings(run, is_still=False)) == set()


def settle_down(process: subprocess.Popen[str]) -> None:
    """Wait until it is stopped."""
    until = time.monotonic() + PATIENCE
    while processes.state_of(process.pid) not in processes.STOPPED:
        assert time.monotonic() < until
        os.sched_yield()


STOPS = "lambda broker: (print('ready', flush=True), os.kill(os.getpid(), signal.SIGSTOP))"
STOPS_INSIDE = """
def stop(broker):
    for number in range({publishes}):
        broker.queue("mail").publish(number)
    broker._store.turn.enter()
    print("ready", flush=True)
    os.kill(os.getpid(), {signal})
hold(stop)
"""


def test_a_stopped_process(run: Run, filled: list[int], hold: Hold) -> None:
    process = hold(f"hold({STOPS})")
    settle_down(process)
    found = findings(run)["stopped"]
    assert (found["severity"], found["pid"]) == ("warning", process.pid)
    assert f"kill -CONT {process.pid}" in found["advice"]
    process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "ready\n"
    assert names_of(findings(run)) == set()


@pytest.mark.parametrize("publishes", [0, 200], ids=["with LOCK", "as the owner, without it"])
def test_a_process_that_is_stopped_in_its_turn(
    run: Run, filled: list[int], hold: Hold, publishes: int
) -> None:
    process = hold(STOPS_INSIDE.format(publishes=publishes, signal="signal.SIGSTOP"))
    settle_down(process)
    found = findings(run)
    assert found["stuck"]["pid"] == process.pid and "stopped" not in found
    assert found["stuck"]["severity"] == "error" and "is stopped" in found["stuck"]["what"]


def test_a_process_that_does_not_leave_its_turn(run: Run, filled: list[int], hold: Hold) -> None:
    hold("hold(lambda broker: broker._store.turn.enter())")
    assert "does not leave it" in findings(run)["stuck"]["what"]


def test_a_process_that_has_it_alone(run: Run, store: Path) -> None:
    with mq.open(store, exclusive=True) as broker:
        broker.queue("mail").publish("x")
        found = findings(run)["exclusive"]
    assert (found["severity"], found["pid"]) == ("note", os.getpid())


@pytest.mark.parametrize("publishes", [0, 200], ids=["with LOCK", "as the owner, without it"])
def test_a_process_that_died_in_its_turn(
    run: Run, store: Path, filled: list[int], hold: Hold, publishes: int
) -> None:
    inside = STOPS_INSIDE.replace("broker._store.turn.enter()", "\n    ".join([
        "broker._store.turn.enter()", "broker._store.turn.mark[shared.DIRTY] = 1",
    ]))  # fmt: skip
    hold(inside.format(publishes=publishes, signal="signal.SIGKILL")).wait()
    assert findings(run)["died-inside"]["severity"] == "note"
    with mq.open(store):
        assert "died-inside" not in findings(run, is_still=False)


def test_a_process_that_has_just_left_its_turn(
    run: Run, store: Path, filled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was read when it had appended, and not said yet that this was all; it appends nothing more."""
    check = processes._check_dead

    def read_inside(subject: Any, words: list[int]) -> Any:
        words[shared.DIRTY] = 1
        return check(subject, words)

    monkeypatch.setattr(processes, "_check_dead", read_inside)
    with mq.open(store):
        assert names_of(findings(run)) == set()


def test_a_process_that_died_while_it_waited(run: Run, store: Path, hold: Hold) -> None:
    hold()
    waits = hold("hold(lambda broker: (print('ready', flush=True), broker.queue('mail').receive()))")
    mark, until = store / "mark", time.monotonic() + PATIENCE
    while not int.from_bytes(mark.read_bytes()[8 * shared.ASLEEP :][:8], "little"):
        assert time.monotonic() < until
        os.sched_yield()
    assert "died-waiting" not in findings(run)
    waits.kill()
    waits.wait()
    assert findings(run)["died-waiting"]["severity"] == "note"


def test_a_disk_that_failed(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    broker = mq.open(store)
    broker.queue("mail").publish("x")
    with monkeypatch.context() as patched, pytest.raises(mq.StoreFailed):
        patched.setattr(os, "fdatasync", fail)
        broker.queue("mail").publish("y")
    assert findings(run)["failed"]["severity"] == "error"
    broker.close()


@pytest.mark.parametrize(
    "word, value, name",
    [(shared.VERSION, shared.PAGE_VERSION + 1, "page-version"), (shared.BOOT, 4711, "boot")],
    ids=["another mq", "another computer"],
)
def test_a_page_of_another_world(run: Run, store: Path, word: int, value: int, name: str) -> None:
    with mq.open(store) as broker:
        broker.queue("mail").publish("x")
        mark = broker._store.turn.mark
        before, mark[word] = mark[word], value
        assert findings(run)[name]["severity"] == "error"
        mark[word] = before


@pytest.mark.parametrize("name", ["LOCK", "FORMAT", "log"])
def test_files_that_were_replaced_under_a_process(
    run: Run, store: Path, filled: list[int], hold: Hold, name: str
) -> None:
    hold()
    copy = shutil.copytree if (store / name).is_dir() else shutil.copy
    copy(store / name, "copy")
    (store / name).rename("old")
    Path("copy").rename(store / name)
    assert findings(run)["replaced"]["severity"] == "error"
