"""`mq worker`: real processes, which run what a module registers."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import COMMAND

import mq
from mq.cli.status import fitting, parts_of
from mq.workers.counts import Counts

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


def start(
    home: Path, *given: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **environ: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "worker", *given], cwd=home, stdout=stdout, stderr=stderr, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(mq.__file__).parents[1]), **environ},
    )  # fmt: skip


def end(worker: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = worker.communicate(timeout=PATIENCE)
    return worker.returncode, said


@pytest.fixture
def broker(home: Path) -> Iterator[mq.Broker]:
    with mq.open(home / "data") as broker:
        yield broker


def on_terminal(home: Path, width: int, *given: str) -> tuple[int, str]:
    """Run it on a terminal so wide; how it ended, and what the terminal got.

    The file `seen` is made once that shows that one has failed.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, width))
    worker = start(home, *given, stdout=theirs, stderr=theirs, TERM="xterm", COLUMNS="")
    os.close(theirs)
    got = b""
    with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # it ends with EIO
        while part := terminal.read(1 << 16):
            got += part
            if b" 1 failed" in got:
                (home / "seen").touch()
    return worker.wait(PATIENCE), got.decode()


def wait_for(path: Path, worker: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not path.exists():
        assert worker.poll() is None, worker.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_several_processes_do_all_the_work_and_one_that_dies_is_begun_again(
    home: Path, broker: mq.Broker
) -> None:
    orders = broker.queue("orders", visibility_timeout=5)  # more than a machine that is busy takes
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


FORKS = """
import os, signal, mq

broker = mq.open("data", sync="never")

@broker.consumer("orders")
def bill(order: int) -> None:
    if not os.path.exists("forked"):
        open("forked", "w").close()
        if os.fork() == 0:
            while not os.path.exists("go"):
                signal.sigtimedwait([], 0.01)
            os._exit(0)
        os.kill(os.getpid(), 9)
"""


def test_a_process_that_a_handler_forked_keeps_no_other_from_being_begun(
    home: Path, broker: mq.Broker
) -> None:
    """It has the pipes by which the one that died told of itself."""
    (home / "forks.py").write_text(FORKS)
    orders = broker.queue("orders", visibility_timeout=1)
    orders.publish(1)
    worker = start(home, "forks")
    give_up = time.monotonic() + PATIENCE
    while not orders.stats().acked:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    (home / "go").touch()
    worker.terminate()
    assert end(worker)[0] == 0


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


# ── what it tells ──────────────────────────────────────────────────────────────────

TALKS = """
import os, time, mq
broker = mq.open("data", sync="never")
broker.queue("orders", max_attempts=1)
@broker.consumer("orders")
def bill(order: int) -> None:
    print("billed", order)
    if order == 3:
        raise ValueError("no such customer")
    time.sleep(0.02)
    while order == 49 and not os.path.exists("seen"):  # the status is shown now and then
        time.sleep(0.01)
"""


@pytest.mark.parametrize("width", [40, 120])
def test_on_a_terminal_a_status_line_is_below_what_consumers_print(
    home: Path, broker: mq.Broker, width: int
) -> None:
    (home / "talks.py").write_text(TALKS)
    broker.queue("orders").publish_many(list(range(50)))
    code, got = on_terminal(home, width, "talks", "--until-empty")
    assert code == 0, got
    lines = got.replace("\r\n", "\n").split("\n")
    drawn = [part.split("\x1b[K")[0] for line in lines for part in line.split("\r") if "\x1b[K" in part]
    status = [each for each in drawn if "in flight" in each]
    assert any(" 1 failed" in each for each in status)
    assert max(map(len, status)) < width
    assert ("process" in "".join(status)) == (width == 120)
    printed = [line.rpartition("\x1b[K")[2].strip("\r") for line in lines]  # where the status line was
    assert [line for line in printed if line.startswith("billed")] == [f"billed {n}" for n in range(50)]
    assert "ValueError: no such customer" in printed
    assert printed[-2:] == ["mq: 49 done, 1 failed", ""]


def test_elsewhere_the_last_line_tells_what_was_done(home: Path, broker: mq.Broker) -> None:
    broker.queue("orders").publish_many([1, 2])
    code, said = end(start(home, "jobs", "-q", "orders", "--until-empty"))
    assert (code, said) == (0, "mq: 2 done, 0 failed\n")


def test_a_status_line_is_never_wider_than_the_terminal() -> None:
    parts = parts_of(4, Counts(32, 1204331, 17), 1250.7)
    assert fitting(parts, 80) == "4 processes, 32 in flight, 1204331 done, 17 failed, 1251/s"
    assert fitting(parts, 39) == "32 in flight, 1204331 done, 17 failed"
    assert fitting(parts, 30) == "1204331 done, 17 failed"
    for width in range(80):
        assert len(fitting(parts, width)) <= width
